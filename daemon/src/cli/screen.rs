//! One block of text that is kept up to date: redrawn in place on a terminal, else one line per change.

use std::io::{IsTerminal as _, Write as _};

/// Where the block is.
pub struct Screen {
    is_terminal: bool,
    /// Lines of the block on the terminal now.
    lines: usize,
    last_line: String,
}

impl Screen {
    #[must_use]
    pub fn new() -> Self {
        Self {
            is_terminal: std::io::stdout().is_terminal(),
            lines: 0,
            last_line: String::new(),
        }
    }

    /// Shows `block` on a terminal; elsewhere `line`, if it differs from the last one.
    pub fn show(&mut self, block: &str, line: &str) {
        let mut out = std::io::stdout().lock();
        // A reader that has gone away is no reason to stop the pool.
        if self.is_terminal {
            let _ = write!(out, "{}", redraw(self.lines, block));
            self.lines = block.lines().count();
        } else if line != self.last_line {
            let _ = writeln!(out, "{line}");
            line.clone_into(&mut self.last_line);
        }
        let _ = out.flush();
    }
}

impl Default for Screen {
    fn default() -> Self {
        Self::new()
    }
}

/// Up to the first line of the old block, then each line of the new one over what was there.
fn redraw(old_lines: usize, block: &str) -> String {
    const CLEAR_TO_END_OF_LINE: &str = "\x1b[K";
    const CLEAR_TO_END_OF_SCREEN: &str = "\x1b[J";
    let mut text = match old_lines {
        0 => String::new(),
        lines => format!("\x1b[{lines}A\r"),
    };
    for line in block.lines() {
        text.push_str(line);
        text.push_str(CLEAR_TO_END_OF_LINE);
        text.push('\n');
    }
    text + CLEAR_TO_END_OF_SCREEN
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_drawn_over_the_one_before() {
        assert_eq!(redraw(0, "a\nb\n"), "a\x1b[K\nb\x1b[K\n\x1b[J");
        assert_eq!(redraw(2, "c\n"), "\x1b[2A\rc\x1b[K\n\x1b[J");
    }
}
