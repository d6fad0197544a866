//! What is at the place of an output.

use std::fmt;

/// What is at the place of an output, and stays there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Occupant {
    /// A regular file; it is replaced if the caller says so.
    File,
    /// A directory, where a file was to be written; or one that is not empty.
    Directory,
    /// Something that is read for the output, by whatever name.
    Input,
    /// A link that leads nowhere.
    Link,
    /// A device, a pipe or a socket.
    Special,
}

impl fmt::Display for Occupant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Occupant::File => "this file already exists",
            Occupant::Directory => "this directory already exists",
            Occupant::Input => "this is an input of the same command",
            Occupant::Link => "this link leads nowhere",
            Occupant::Special => "this is a device, a pipe or a socket",
        })
    }
}
