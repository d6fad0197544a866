//! Cuts a file into its signature and version and then into sections, from bytes that arrive in any
//! amounts. Checks what holds for every section, whatever is in it (SPEC.md §3).

use std::ops::Range;

use crate::digest::Digest;
use crate::error::Fault;
use crate::hash::Sha;
use crate::tag::Tag;
use crate::varint;
use crate::wire;

/// What the bytes that are being gathered belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Signature,
    Version,
    /// Tag and length of a section.
    Head,
    /// A section whose head of this many bytes has been read.
    Body {
        head: usize,
    },
    /// The section in the buffer is complete; the next byte starts another.
    Complete {
        head: usize,
    },
}

/// What has become complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cut {
    /// Major and minor version.
    Version(u8, u8),
    Section(Tag),
}

/// A fault, placed by a byte of the section that is being read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Flaw {
    pub at: usize,
    pub fault: Fault,
}

#[derive(Debug)]
pub(crate) struct Framing {
    /// Most bytes of a payload.
    payload_max: u64,
    part: Part,
    /// The section that is being read, or the one that was completed last.
    buffer: Vec<u8>,
    /// Size of the buffer at which the next thing can be checked.
    goal: usize,
    /// Where the buffer starts in the file.
    offset: u64,
    /// SHA-256 of all that is complete, up to the field of the footer that has it.
    sha: Sha,
}

impl Framing {
    pub fn new(payload_max: u64) -> Self {
        Framing {
            payload_max: payload_max.min(wire::SECTION_BYTES_MAX),
            part: Part::Signature,
            buffer: Vec::new(),
            goal: wire::SIGNATURE.len(),
            offset: 0,
            sha: Sha::default(),
        }
    }

    /// Framing from a section at `offset` on. It knows no SHA-256 of the file.
    #[cfg(feature = "parallel")]
    pub fn at_section(payload_max: u64, offset: u64) -> Self {
        Framing {
            part: Part::Head,
            goal: wire::SECTION_BYTES_MIN,
            offset,
            ..Framing::new(payload_max)
        }
    }

    /// Bytes that are missing before the next thing can be checked.
    pub fn wanted(&self) -> usize {
        match self.part {
            Part::Complete { .. } => wire::SECTION_BYTES_MIN,
            _ => self.goal - self.buffer.len(),
        }
    }

    /// Takes bytes from the front of `input` until a section is complete; `None` if it needs more.
    pub fn take(&mut self, input: &mut &[u8]) -> Result<Option<Cut>, Flaw> {
        if let (Part::Complete { .. }, false) = (self.part, input.is_empty()) {
            self.offset += self.buffer.len() as u64;
            self.buffer.clear();
            (self.part, self.goal) = (Part::Head, wire::SECTION_BYTES_MIN);
        }
        while !input.is_empty() {
            let (now, later) = input.split_at(self.wanted().min(input.len()));
            self.buffer.extend_from_slice(now);
            *input = later;
            // The shortest section is complete with its head.
            while self.buffer.len() == self.goal {
                if let Some(cut) = self.advance()? {
                    return Ok(Some(cut));
                }
            }
        }
        Ok(None)
    }

    /// Looks at what the buffer holds now that it has reached its goal.
    fn advance(&mut self) -> Result<Option<Cut>, Flaw> {
        match self.part {
            Part::Signature => {
                let mut found = [0; wire::SIGNATURE.len()];
                found.copy_from_slice(&self.buffer);
                if found != wire::SIGNATURE {
                    return Err(Flaw { at: 0, fault: Fault::Signature { found } });
                }
                (self.part, self.goal) = (Part::Version, wire::PRELUDE_BYTES);
                Ok(None)
            }
            Part::Version => {
                self.sha.update(&self.buffer);
                let (major, minor) = (self.buffer[self.goal - 2], self.buffer[self.goal - 1]);
                self.part = Part::Complete { head: 0 };
                Ok(Some(Cut::Version(major, minor)))
            }
            Part::Head => self.read_head().map(|()| None),
            Part::Body { head } => self.close(head).map(|tag| Some(Cut::Section(tag))),
            Part::Complete { .. } => Ok(None),
        }
    }

    fn read_head(&mut self) -> Result<(), Flaw> {
        let tag = Tag(self.buffer[0]);
        if !tag.0.is_ascii_alphabetic() {
            return Err(Flaw { at: 0, fault: Fault::UnknownSection { tag } });
        }
        match varint::parse(&self.buffer[1..]) {
            varint::Parsed::Incomplete => self.goal += 1,
            varint::Parsed::Invalid => {
                return Err(Flaw { at: 1, fault: Fault::Varint { field: "section length" } });
            }
            varint::Parsed::Value(asked, bytes) => {
                let allowed = self.payload_max;
                let Some(len) = usize::try_from(asked).ok().filter(|_| asked <= allowed) else {
                    return Err(Flaw {
                        at: 0,
                        fault: Fault::Limit { limit: "section_bytes", asked, allowed },
                    });
                };
                let head = 1 + bytes;
                (self.part, self.goal) = (Part::Body { head }, head + len + wire::CRC_BYTES);
            }
        }
        Ok(())
    }

    /// Checks the CRC of the section in the buffer, which is complete.
    fn close(&mut self, head: usize) -> Result<Tag, Flaw> {
        let body = self.goal - wire::CRC_BYTES;
        let mut stored = [0; wire::CRC_BYTES];
        stored.copy_from_slice(&self.buffer[body..]);
        let (expected, found) = (u32::from_le_bytes(stored), crc32fast::hash(&self.buffer[..body]));
        if expected != found {
            return Err(Flaw { at: body, fault: Fault::Crc { expected, found } });
        }
        let tag = Tag(self.buffer[0]);
        let hashed = if tag == Tag::FOOTER {
            body.saturating_sub(wire::FOOTER_DIGEST_BYTES)
        } else {
            self.goal
        };
        self.sha.update(&self.buffer[..hashed]);
        self.part = Part::Complete { head };
        Ok(tag)
    }

    /// Payload of the section that was completed last, as a range of its bytes.
    pub fn payload_range(&self) -> Range<usize> {
        match self.part {
            Part::Complete { head } => {
                head..self.buffer.len().saturating_sub(wire::CRC_BYTES).max(head)
            }
            _ => 0..0,
        }
    }

    /// Payload of the section that was completed last.
    pub fn payload(&self) -> &[u8] {
        &self.buffer[self.payload_range()]
    }

    /// Tag of the section in the buffer, complete or not.
    pub fn tag(&self) -> Option<Tag> {
        match self.part {
            Part::Signature | Part::Version => None,
            _ => self.buffer.first().copied().map(Tag),
        }
    }

    /// Where the section in the buffer starts in the file.
    pub fn start(&self) -> u64 {
        self.offset
    }

    /// Bytes of the section in the buffer, so far.
    pub fn bytes(&self) -> u64 {
        self.buffer.len() as u64
    }

    /// Bytes of the file that were taken.
    pub fn taken(&self) -> u64 {
        self.offset + self.bytes()
    }

    /// Where the section that is being read starts: everything before it is complete.
    pub fn complete_bytes(&self) -> u64 {
        match self.part {
            Part::Complete { .. } => self.taken(),
            _ => self.offset,
        }
    }

    /// SHA-256 of the file up to the field of the footer that has it. Only after the footer.
    pub fn sha256(&self) -> Digest {
        self.sha.clone().finish()
    }

    /// Gives up its memory.
    pub fn clear(&mut self) {
        self.buffer = Vec::new();
    }
}
