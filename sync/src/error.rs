//! One error type: what happened, to which object, and who has to act. The kinds are those of FEED.md §9.

use std::io;
use std::path::{Path, PathBuf};

use pulse::hash::Digest;

use crate::id::{Run, Writer};
use crate::key::PublicKey;

/// Result of every fallible operation of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What is wrong with a document.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DocumentFault {
    /// It breaks FEED.md §2, §3 or §4.
    #[error("{0}")]
    Malformed(String),
    /// Its payload is not the one that was sealed.
    #[error("its payload has SHA-256 {found}, but its seal says {expected}")]
    Seal {
        /// Of the seal.
        expected: Digest,
        /// Of the payload.
        found: Digest,
    },
    /// It is larger than a document may be.
    #[error("it has {bytes} bytes, more than the {allowed} that are allowed")]
    Limit {
        /// Its size.
        bytes: u64,
        /// The largest size.
        allowed: u64,
    },
    /// It is of a feed of a later format.
    #[error("it is of major version {0}, this program knows 1")]
    Version(u64),
    /// It is of another run.
    #[error("it is of run {found}, not of run {expected}")]
    Run {
        /// The run that is followed.
        expected: Run,
        /// The run that it names.
        found: Run,
    },
    /// A signature is missing.
    #[error("it has no signature of key {0}")]
    Unsigned(PublicKey),
    /// There is no key, although one was asked for.
    #[error("the feed is not signed, but was to be by key {0}")]
    NoKey(PublicKey),
    /// A signature is wrong.
    #[error("it is signed, but key {0} did not sign it")]
    Signature(PublicKey),
    /// The keys of the feed do not include the one that the reader trusts.
    #[error("it is signed by key {found}, which key {trusted} has not handed over to")]
    Untrusted {
        /// The reader's key.
        trusted: PublicKey,
        /// The feed's.
        found: PublicKey,
    },
}

/// What went wrong with a feed. Its text says what happened; [`advice`](Self::advice) what to do, and
/// [`kind`](Self::kind) is a word for programs.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A document breaks a rule of FEED.md, or is not of whom it should be.
    #[error("{object}: {fault}")]
    Document {
        /// Name of the object in the feed.
        object: String,
        /// What is wrong with it.
        fault: DocumentFault,
    },
    /// A record does not follow the one that it should.
    #[error("version {version}: {what}")]
    Chain {
        /// The record.
        version: u64,
        /// What is wrong.
        what: String,
    },
    /// A record of a writer that had been fenced before.
    #[error("version {version} is of epoch {epoch}, the one before of epoch {before}")]
    Epoch {
        /// The record.
        version: u64,
        /// Its epoch.
        epoch: u64,
        /// That of the record before.
        before: u64,
    },
    /// The run has ended.
    #[error("the run ended with version {version}")]
    Ended {
        /// The last version.
        version: u64,
    },
    /// The feed shows less than it did.
    #[error("the newest version is {head}, but version {mark} was served before")]
    RolledBack {
        /// The version that was served.
        mark: u64,
        /// The newest that is shown.
        head: u64,
    },
    /// The feed shows another past than it did.
    #[error("version {version} has a record of digest {found}, but the one that was served had {expected}")]
    Forked {
        /// The version that was served.
        version: u64,
        /// Digest of its record.
        expected: Digest,
        /// Digest of the record that is there now.
        found: Digest,
    },
    /// An object is not the one that a document names.
    #[error("{object}: {what}")]
    Data {
        /// Name of the object in the feed.
        object: String,
        /// What is wrong with it.
        what: String,
    },
    /// What was made is not the version.
    #[error("version {version} has digest {expected}, but {found} was made")]
    Wrong {
        /// The version.
        version: u64,
        /// Digest in its record.
        expected: Digest,
        /// Digest of what was made.
        found: Digest,
    },
    /// Nothing leads to a newer version.
    #[error("no way leads to version {wanted}: {why}")]
    Lost {
        /// The version that was wanted.
        wanted: u64,
        /// What is missing.
        why: String,
    },
    /// Another writer has taken over.
    #[error(
        "writer {writer} of epoch {epoch} is fenced: version {version} is of writer {other}, epoch \
         {other_epoch}"
    )]
    Fenced {
        /// Version that the other writer put.
        version: u64,
        /// This writer.
        writer: Writer,
        /// Its epoch.
        epoch: u64,
        /// The other one.
        other: Writer,
        /// The epoch of the other.
        other_epoch: u64,
    },
    /// The store replaces what it was asked only to create.
    #[error("{store} replaces an object that it was asked only to create")]
    Conditions {
        /// The store.
        store: String,
    },
    /// There is no feed.
    #[error("there is no feed at {store}")]
    NoFeed {
        /// Where it was looked for.
        store: String,
    },
    /// The weights that a patch starts from are not those of the newest version.
    #[error("version {version} has digest {expected}, but the base given has {found}")]
    Base {
        /// The newest version.
        version: u64,
        /// Its digest.
        expected: Digest,
        /// Digest of the base.
        found: Digest,
    },
    /// The store failed.
    #[error("{doing} {object}: {}", said(source))]
    Store {
        /// What was being done.
        doing: &'static str,
        /// Name of the object, or the address of the store.
        object: String,
        /// What the store said.
        source: object_store::Error,
    },
    /// The address is that of no store.
    #[error("{address}: {what}")]
    Address {
        /// The address.
        address: String,
        /// What is wrong with it.
        what: String,
    },
    /// A key cannot be used.
    #[error("{0}")]
    Key(String),
    /// The caller broke a rule of the interface.
    #[error("{0}")]
    Misuse(String),
    /// A file of this machine.
    #[error("{doing} {}: {source}", path.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A patch or a checkpoint.
    #[error(transparent)]
    Pulse(#[from] pulse::Error),
}

impl Error {
    /// Every word that [`kind`](Self::kind) has of its own, besides those of [`pulse::Error::KINDS`].
    pub const KINDS: &[&str] = &[
        "malformed",
        "seal",
        "limit",
        "version",
        "run",
        "chain",
        "epoch",
        "ended",
        "unsigned",
        "signature",
        "rolled-back",
        "forked",
        "data",
        "result",
        "lost",
        "fenced",
        "conditions",
        "store",
        "no-feed",
        "base",
        "address",
        "key",
        "misuse",
        "io",
    ];

    pub(crate) fn malformed(object: &str, what: impl Into<String>) -> Self {
        Self::document(object, DocumentFault::Malformed(what.into()))
    }

    pub(crate) fn document(object: &str, fault: DocumentFault) -> Self {
        Error::Document { object: object.into(), fault }
    }

    pub(crate) fn io(doing: &'static str, path: &Path, source: io::Error) -> Self {
        Error::Io { doing, path: path.into(), source }
    }

    pub(crate) fn data(object: &str, what: impl Into<String>) -> Self {
        Error::Data { object: object.into(), what: what.into() }
    }

    /// A word for programs: the kinds of FEED.md §9, of SPEC.md §11 and of this library.
    ///
    /// ```
    /// let error = pulse_sync::Error::Conditions { store: "s3://bucket".into() };
    /// assert_eq!(error.kind(), "conditions");
    /// ```
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Error::Document { fault, .. } => match fault {
                DocumentFault::Malformed(_) => "malformed",
                DocumentFault::Seal { .. } => "seal",
                DocumentFault::Limit { .. } => "limit",
                DocumentFault::Version(_) => "version",
                DocumentFault::Run { .. } => "run",
                DocumentFault::Unsigned(_) | DocumentFault::NoKey(_) => "unsigned",
                DocumentFault::Signature(_) | DocumentFault::Untrusted { .. } => "signature",
            },
            Error::Chain { .. } => "chain",
            Error::Epoch { .. } => "epoch",
            Error::Ended { .. } => "ended",
            Error::RolledBack { .. } => "rolled-back",
            Error::Forked { .. } => "forked",
            Error::Data { .. } => "data",
            Error::Wrong { .. } => "result",
            Error::Lost { .. } => "lost",
            Error::Fenced { .. } => "fenced",
            Error::Conditions { .. } => "conditions",
            Error::NoFeed { .. } => "no-feed",
            Error::Base { .. } => "base",
            Error::Store { .. } => "store",
            Error::Address { .. } => "address",
            Error::Key(_) => "key",
            Error::Misuse(_) => "misuse",
            Error::Io { .. } => "io",
            Error::Pulse(error) => error.kind(),
        }
    }

    /// What to do about it, for whoever sees the message; `None` where the message says all.
    #[must_use]
    pub fn advice(&self) -> Option<String> {
        let advice = match self {
            Error::Document { fault, .. } => match fault {
                DocumentFault::Version(_) => "use a newer version of this program",
                DocumentFault::Run { .. } => {
                    "this address holds another run than before; follow it into another place, or \
                     remove the state of this one"
                }
                DocumentFault::Unsigned(_) | DocumentFault::NoKey(_) => {
                    "do not trust this feed before you know from its publisher why it is unsigned"
                }
                DocumentFault::Signature(_) | DocumentFault::Untrusted { .. } => {
                    "somebody else may have written to the store; compare the key with the publisher's"
                }
                _ => "the store or a mirror damaged it, or somebody else wrote it; it is asked for again",
            },
            Error::Chain { .. } | Error::Epoch { .. } => {
                "the log was not written by one publisher after the other; nothing of it is used"
            }
            Error::Ended { .. } => "publish to a feed of its own, at another address",
            Error::RolledBack { .. } => {
                "the mirror may be stale; what was served before is served further"
            }
            Error::Forked { .. } => {
                "the log was rewritten: ask the publisher; what was served before is served further"
            }
            Error::Data { .. } | Error::Wrong { .. } => "another way is tried",
            Error::Lost { .. } => "it is asked for again; an anchor by the publisher, or pulse feed compact, helps",
            Error::Fenced { .. } => "stop this publisher: another one has taken over the feed",
            Error::Conditions { .. } => {
                "two publishers could overwrite each other there; use a store with conditional writes \
                 (If-None-Match), such as S3, R2, GCS, Azure or a directory"
            }
            Error::NoFeed { .. } => {
                "check the address, and that the bucket exists; pulse publish creates a feed"
            }
            Error::Base { .. } => "give the weights of the newest version as the base",
            Error::Store { source, .. } => return store_advice(source),
            Error::Address { .. } => {
                "give s3://bucket/prefix, gs://bucket/prefix, az://container/prefix, https://host/prefix to \
                 read, or a directory; R2 and others that speak S3 are s3:// with AWS_ENDPOINT_URL"
            }
            Error::Pulse(error) => return error.advice().map(|advice| advice.to_string()),
            _ => return None,
        };
        Some(advice.into())
    }

    /// Whether the same may succeed later without anybody doing anything.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        match self {
            Error::Store { source, .. } => !is_refusal(source),
            Error::Document { fault, .. } => {
                matches!(fault, DocumentFault::Malformed(_) | DocumentFault::Seal { .. })
            }
            Error::RolledBack { .. }
            | Error::Forked { .. }
            | Error::Data { .. }
            | Error::Wrong { .. }
            | Error::Lost { .. } => true,
            _ => false,
        }
    }
}

/// Whether the store understood and said no, and would say it again.
pub(crate) fn is_refusal(error: &object_store::Error) -> bool {
    use object_store::Error as E;
    matches!(
        error,
        E::PermissionDenied { .. }
            | E::Unauthenticated { .. }
            | E::NotSupported { .. }
            | E::NotImplemented { .. }
            | E::InvalidPath { .. }
            | E::UnknownConfigurationKey { .. }
    )
}

/// All that an error and its causes say.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// What a store said, on one line of some length, without what may be secret in addresses.
fn said(error: &object_store::Error) -> String {
    const CHARS: usize = 300;
    let mut text = error.to_string();
    // Some say what went wrong only at the end of the chain of causes.
    let mut cause: &dyn std::error::Error = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    let last = cause.to_string();
    if !text.contains(&last) {
        text = format!("{text}: {last}");
    }
    let between = |start: &str, end: &str| {
        let (_, rest) = text.split_once(start)?;
        Some(rest.split_once(end)?.0)
    };
    // Stores answer in XML; code and message are all that helps.
    let text = match (between("<Code>", "</Code>"), between("<Message>", "</Message>")) {
        (Some(code), Some(message)) => {
            let status = between("status code: ", ": ").unwrap_or("it refused");
            format!("{status}: {code}: {message}")
        }
        _ => what_failed(&text),
    };
    let words = text.split_whitespace().map(|word| match word.split_once('?') {
        Some((address, query)) if address.contains("://") => {
            format!("{address}?…{}", if query.ends_with(':') { ":" } else { "" })
        }
        _ => word.to_string(),
    });
    let line = words.collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(CHARS) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

/// "Error performing GET URL in 2ms, after 2 retries, … - HTTP error: …" without what helps nobody.
fn what_failed(text: &str) -> String {
    let Some((_, rest)) = text.split_once("Error performing ") else { return text.into() };
    let Some((request, why)) = rest.split_once(" - ") else { return text.into() };
    let request = request.split(" in ").next().unwrap_or(request);
    let why = why.trim_start_matches("HTTP error: ").trim_start_matches("error sending request: ");
    format!("{request}: {why}")
}

fn store_advice(error: &object_store::Error) -> Option<String> {
    use object_store::Error as E;
    const CREDENTIALS: &str = "check the credentials in the environment (AWS_ACCESS_KEY_ID and \
        AWS_SECRET_ACCESS_KEY, AZURE_STORAGE_ACCOUNT_NAME and …_KEY, GOOGLE_APPLICATION_CREDENTIALS)";
    let all = chain(error);
    let says = |words: &[&str]| words.iter().any(|word| all.contains(word));
    let advice = match error {
        _ if says(&["RequestTimeTooSkewed", "RequestExpired"]) => {
            "the clock of this machine is wrong by minutes or more: set it"
        }
        _ if says(&["InvalidAccessKeyId", "SignatureDoesNotMatch", "AuthenticationFailed"]) => {
            CREDENTIALS
        }
        E::Unauthenticated { .. } => CREDENTIALS,
        E::PermissionDenied { .. } => "the credentials do not allow it: check the policy of the bucket",
        E::NotImplemented { .. } | E::NotSupported { .. } => {
            "this store can only be read; publish to S3, GCS, Azure or a directory"
        }
        E::NotFound { .. } => "check that the bucket or container exists",
        // Where credentials are looked for that are not in the environment.
        _ if says(&["latest/api/token", "169.254.", "metadata.google.internal"]) => {
            "there are no credentials in the environment (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, \
             or AZURE_STORAGE_ACCOUNT_KEY …), and this machine has none of its own"
        }
        _ if says(&["Missing SecretAccessKey", "Missing AccessKeyId", "must be specified"]) => {
            CREDENTIALS
        }
        _ if says(&["LocalFileSystem"]) => "check the path, and who may read and write there",
        _ if says(&["builder error"]) => {
            "an http:// endpoint needs AWS_ALLOW_HTTP=true or AZURE_ALLOW_HTTP=true; https:// needs the \
             certificates of the system (package ca-certificates, or SSL_CERT_FILE)"
        }
        _ => "is the store up, and its address right?",
    };
    Some(advice.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn generic(text: &str) -> Error {
        let source = object_store::Error::Generic { store: "S3", source: text.into() };
        Error::Store { doing: "writing", object: "pulse.json".into(), source }
    }

    #[test]
    fn what_a_store_said_is_one_line_without_secrets() {
        let xml = "Error performing PUT https://host/b/pulse.json?sig=SECRET in 2ms - Server returned \
            non-2xx status code: 403 Forbidden: <?xml version=\"1.0\"?>\n<Error><Code>RequestTimeTooSkewed\
            </Code><Message>The difference is too\nlarge.</Message></Error>";
        let error = generic(xml);
        let expected =
            "writing pulse.json: 403 Forbidden: RequestTimeTooSkewed: The difference is too large.";
        assert_eq!(error.to_string(), expected);
        assert!(error.advice().unwrap().contains("clock"));
        let error = generic(
            "Error performing GET https://host/b/x?sig=SECRET in 2ms, after 2 retries - HTTP error: error sending \
             request: timed out\nafter 3 s",
        );
        let expected = "writing pulse.json: GET https://host/b/x?…: timed out after 3 s";
        assert_eq!(error.to_string(), expected);
        assert!(generic(&"a b ".repeat(1000)).to_string().chars().count() < 400);
    }

    #[test]
    fn every_kind_is_listed_once() {
        let mut kinds = Error::KINDS.to_vec();
        kinds.sort_unstable();
        kinds.dedup();
        assert_eq!(kinds.len(), Error::KINDS.len());
        let source = include_str!("error.rs");
        let (_, after) = source.split_once("pub fn kind(").unwrap();
        let (table, _) = after.split_once("\n    }\n").unwrap();
        let words =
            table.lines().filter_map(|line| line.split_once("=> \"")?.1.strip_suffix("\","));
        let mut words: Vec<&str> = words.collect();
        words.sort_unstable();
        assert_eq!(words, kinds);
    }
}
