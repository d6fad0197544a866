//! `pulse.json`: what a feed is.

use crate::document::{seal, Document};
use crate::error::{DocumentFault, Error, Result};
use crate::id::Run;
use crate::json::{self, Object};
use crate::key::{PublicKey, SecretKey};
use crate::name;
use crate::record::check_type;

const MAJOR: u64 = 1;
const MINOR: u64 = 0;

/// What a feed says of itself, once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Manifest {
    /// The run.
    pub run: Run,
    /// When it was created: milliseconds since 1970.
    pub time: u64,
    /// The key that signs it at first; `None` if it is unsigned.
    pub key: Option<PublicKey>,
}

impl Manifest {
    pub(crate) fn seal(&self, key: Option<&SecretKey>) -> Vec<u8> {
        let fields = json::Writer::new().text("type", "feed").hex("run", &self.run.0);
        let fields =
            fields.integer("major", MAJOR).integer("minor", MINOR).integer("time", self.time);
        let payload = fields.optional(self.key, |fields, key| fields.hex("key", &key.0)).end();
        seal(&payload, key.as_slice())
    }

    pub(crate) fn parse(bytes: &[u8]) -> Result<Self> {
        let document = Document::parse(name::FEED, bytes)?;
        let wrong = |what| Error::malformed(name::FEED, what);
        let major =
            check_type(&document.fields, "feed").and_then(|()| document.fields.integer("major"));
        let major = major.map_err(wrong)?;
        if major != MAJOR {
            return Err(Error::document(name::FEED, DocumentFault::Version(major)));
        }
        let manifest = Self::fields(&document.fields).map_err(wrong)?;
        manifest.key.map_or(Ok(()), |key| document.check_signature(name::FEED, &key))?;
        Ok(manifest)
    }

    fn fields(fields: &Object) -> json::Result<Self> {
        fields.integer("minor")?;
        Ok(Manifest {
            run: Run(fields.hex("run")?),
            time: fields.integer("time")?,
            key: fields.optional_hex("key")?.map(PublicKey),
        })
    }
}
