//! What to do about an error, apart from what happened.

use std::fmt;
use std::io;

/// What to do about an error. The text is for people; a program that has better words, or acts by
/// itself, matches the variant.
///
/// ```
/// use pulse::error::Advice;
/// assert_eq!(Advice::TransferAgain.to_string(), "transfer it again");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[allow(missing_docs)] // the text says it
pub enum Advice {
    TransferAgain,
    TransferAsBinary,
    CreateAgain,
    UseNewerReader,
    RaiseLimit,
    UseItsBase,
    UseItsBaseFiles,
    UseItsTarget,
    GiveItsBase,
    KeepBase,
    GiveEveryPatch,
    GiveEveryPart,
    WriteNewCheckpoint,
    NothingToDo,
    SaveAgain,
    CopyAgain,
    GiveRegularFile,
    GiveCheckpoint,
    GivePatch,
    ChooseCheckpoint,
    SwapArguments,
    FetchLfs,
    DownloadAgain,
    Unpack,
    Convert,
    ChooseOne,
    Rename,
    CopyLinked,
    LeaveUnchanged,
    ChooseAnotherPlace,
    Wait,
    Recover,
    CheckDisk,
    AllowAndRecover,
    CopyJournal,
    FetchCheckpointAgain,
    Report,
    CheckPath,
    CheckPermissions,
    MakeRoom,
    RaiseOpenFiles,
    ChooseWritablePlace,
    TryAgain,
}

impl Advice {
    /// What to do about an error of the system, where that is known.
    pub(super) fn on_io(error: &io::Error) -> Option<Advice> {
        Some(match error.kind() {
            io::ErrorKind::NotFound => Advice::CheckPath,
            io::ErrorKind::PermissionDenied => Advice::CheckPermissions,
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Advice::MakeRoom,
            // ENFILE and EMFILE on all systems that have them.
            _ if cfg!(unix) && matches!(error.raw_os_error(), Some(23 | 24)) => {
                Advice::RaiseOpenFiles
            }
            io::ErrorKind::ReadOnlyFilesystem => Advice::ChooseWritablePlace,
            io::ErrorKind::UnexpectedEof => Advice::TryAgain,
            _ => return None,
        })
    }

    /// The same as a word for programs, such as `transfer-again`.
    ///
    /// ```
    /// assert_eq!(pulse::error::Advice::TransferAgain.name(), "transfer-again");
    /// ```
    #[must_use]
    pub fn name(self) -> &'static str {
        self.row().0
    }

    fn row(self) -> (&'static str, &'static str) {
        match self {
            Advice::TransferAgain => ("transfer-again", "transfer it again"),
            Advice::TransferAsBinary => ("transfer-as-binary", "check that it is a .pulse file, transferred as binary"),
            Advice::CreateAgain => {
                ("create-again", "the program that made the patch is at fault: create the patch again")
            }
            Advice::UseNewerReader => ("use-newer-reader", "use a newer reader"),
            Advice::RaiseLimit => ("raise-limit", "raise the limit if the source is trusted"),
            Advice::UseItsBase => ("use-its-base", "use the checkpoint that the patch was made from"),
            Advice::UseItsBaseFiles => (
                "use-its-base-files",
                "use the base that the patch was made from with all of its files; the same tensors saved again can have another header",
            ),
            Advice::UseItsTarget => {
                ("use-its-target", "compare with the checkpoint that the patch was made to, or make it by applying the patch")
            }
            Advice::GiveItsBase => ("give-its-base", "give the checkpoint that the patch was made from as well"),
            Advice::KeepBase => ("keep-base", "keep the base, or make a patch from the target to the base"),
            Advice::GiveEveryPatch => {
                ("give-every-patch", "give every patch between the two checkpoints, in order")
            }
            Advice::GiveEveryPart => (
                "give-every-part",
                "give the parts of all ranks of one step, each once, as they were made",
            ),
            Advice::WriteNewCheckpoint => ("write-new-checkpoint", "write the target to a new place"),
            Advice::NothingToDo => ("nothing-to-do", "there is nothing left to apply"),
            Advice::SaveAgain => ("save-again", "save the checkpoint again"),
            Advice::CopyAgain => ("copy-again", "copy it again"),
            Advice::GiveRegularFile => ("give-regular-file", "give a regular file, which can be read twice"),
            Advice::GiveCheckpoint => ("give-checkpoint", "give a .safetensors file or a directory of them"),
            Advice::GivePatch => ("give-patch", "give a patch, which is a .pulse file"),
            Advice::ChooseCheckpoint => ("choose-checkpoint", "give one of the checkpoints in it"),
            Advice::SwapArguments => ("swap-arguments", "are the checkpoint and the patch swapped?"),
            Advice::FetchLfs => ("fetch-lfs", "fetch the file that it stands for: git lfs pull"),
            Advice::DownloadAgain => {
                ("download-again", "download the file itself: a login or an error came in its place")
            }
            Advice::Unpack => ("unpack", "unpack it"),
            Advice::Convert => ("convert", "convert the weights to safetensors"),
            Advice::ChooseOne => (
                "choose-one",
                "find out which of the two is meant, and move the other file to another directory, or save the checkpoint again",
            ),
            Advice::Rename => ("rename", "rename it"),
            Advice::CopyLinked => ("copy-linked", "copy it, and update the copy"),
            Advice::LeaveUnchanged => ("leave-unchanged", "do not change it while it is read"),
            Advice::ChooseAnotherPlace => ("choose-another-place", "remove it, or choose another name"),
            Advice::Wait => ("wait", "wait until it is done"),
            Advice::Recover => ("recover", "wait, or recover it"),
            Advice::AllowAndRecover => {
                ("allow-and-recover", "let this process replace the files, or recover it as their owner")
            }
            Advice::CheckDisk => ("check-disk", "check the disk, then recover it"),
            Advice::CopyJournal => {
                ("copy-journal", "copy its journal back beside it and recover, or fetch the checkpoint again")
            }
            Advice::FetchCheckpointAgain => ("fetch-checkpoint-again", "fetch the checkpoint again"),
            Advice::Report => ("report", "report this as a bug"),
            Advice::CheckPath => ("check-path", "check the path"),
            Advice::CheckPermissions => ("check-permissions", "check the permissions"),
            Advice::RaiseOpenFiles => {
                ("raise-open-files", "raise the limit of open files, or write the target to a new place, which needs fewer")
            }
            Advice::MakeRoom => ("make-room", "make room and try again"),
            Advice::ChooseWritablePlace => ("choose-writable-place", "choose a place that can be written to"),
            Advice::TryAgain => ("try-again", "it became shorter while it was read: try again when nothing writes to it"),
        }
    }
}

impl fmt::Display for Advice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.row().1)
    }
}
