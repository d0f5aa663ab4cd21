//! Binds every socket of a controller before anything is told about it.

use std::collections::BTreeMap;
use std::net::TcpListener;

use piparallel_core::channel::Channel;

/// All sockets, bound and listening, in the order of [`Channel::ALL`]. A channel appears once for
/// each address of its side; `registration` once for each address of both.
#[derive(Debug)]
pub struct Bound {
    pub listeners: Vec<(Channel, TcpListener)>,
    pub ports: BTreeMap<Channel, u16>,
}
