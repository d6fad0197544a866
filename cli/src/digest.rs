//! `pulse digest`: the checkpoint digest, printed as sha256sum prints.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::failure::Result;
use super::progress::Progress;
use super::{streams, text, Common, Outcome};

/// Print the digest of checkpoints: of their contents, independent of file layout and order.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  pulse digest step_0040.safetensors
  pulse digest run/step40/ run/step41/")]
pub struct Digest {
    /// Checkpoints: .safetensors files or directories of them.
    #[arg(required = true, value_name = "CHECKPOINT")]
    checkpoints: Vec<PathBuf>,
}

impl Digest {
    pub fn run(&self, common: &Common) -> Result<Outcome> {
        let (mut text, mut json) = (String::new(), Vec::new());
        for path in &self.checkpoints {
            let checkpoint = streams::checkpoint(path)?;
            let progress = Progress::new(common, "digest", checkpoint.tensor_bytes());
            let digest = checkpoint.digest(progress.control())?.to_string();
            text.push_str(&format!("{digest}  {}\n", text::path(path)));
            json.push(json!({ "digest": digest, "checkpoint": path.display().to_string() }));
        }
        Ok(Outcome::new(text, json.into()))
    }
}
