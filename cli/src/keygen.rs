//! `pulse keygen`: a key that signs a feed.

use std::path::PathBuf;

use clap::Args;
use pulse_sync::{SecretKey, System};
use serde_json::json;

use super::failure::{Failure, Result};
use super::{text, Common, Outcome};

/// Make a key that signs a feed, and print its public half.
///
/// FILE is for the publisher alone (`pulse publish --key FILE`); nobody else may read it. Give followers the line that
/// is printed: `pulse follow --trust KEY`. A file that exists is never replaced.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  pulse keygen keys/trainer.key")]
pub struct Keygen {
    /// Write the secret key here.
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

impl Keygen {
    pub fn run(&self, common: &Common) -> Result<Outcome> {
        let key = SecretKey::generate(&System);
        key.save(&self.file).map_err(|error| match &error {
            pulse_sync::Error::Io { source, .. }
                if source.kind() == std::io::ErrorKind::AlreadyExists =>
            {
                Failure::advised(error, "a key is never replaced: choose another name")
            }
            _ => error.into(),
        })?;
        let public = key.public().to_string();
        if !common.quiet && !common.json {
            text::note(&format!(
                "the secret key is in {}, for the publisher alone; give followers the line printed here",
                text::path(&self.file)
            ));
        }
        let json = json!({ "file": self.file.display().to_string(), "key": public });
        Ok(Outcome::new(format!("{public}\n"), json))
    }
}
