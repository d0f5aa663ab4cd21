//! The store as the controller uses it, on real files.
