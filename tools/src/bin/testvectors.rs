//! Writes `testvectors/`: `cargo run -p pulse-tools --bin testvectors`.

use std::path::Path;

use testkit::vectors::files;

fn main() -> std::io::Result<()> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../testvectors");
    let files = files(|path| std::fs::read(directory.join(path)).expect("a committed checkpoint"));
    for folder in ["good", "malformed", "checkpoints"] {
        // A vector that was renamed must not stay behind.
        std::fs::remove_dir_all(directory.join(folder)).or_else(|error| match error.kind() {
            std::io::ErrorKind::NotFound => Ok(()),
            _ => Err(error),
        })?;
        std::fs::create_dir_all(directory.join(folder))?;
    }
    for (path, bytes) in &files {
        let path = directory.join(path);
        std::fs::create_dir_all(path.parent().expect("a path in the directory"))?;
        std::fs::write(path, bytes)?;
    }
    println!("{} files, {} bytes", files.len(), files.values().map(Vec::len).sum::<usize>());
    Ok(())
}
