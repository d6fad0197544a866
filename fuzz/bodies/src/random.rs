//! Any bytes, read tensor by tensor.

use pulse::patch::{Tail, TensorEntry};
use pulse::{Patch, Result};

use super::limits;

/// Reads a patch at random: an error, or what a reader of the whole file found in it.
pub fn agrees(data: &[u8], whole: Option<&Patch>) {
    match (Tail::new(data, limits()), whole) {
        (Ok(tail), Some(patch)) => {
            assert_eq!(tail.footer(), patch.footer());
            assert_eq!(tail.header().unwrap(), patch.header());
            assert!(tail.names().eq(patch.tensors().iter().map(|tensor| &*tensor.header.name)));
            patch.tensors().iter().for_each(|tensor| compare(&tail, tensor));
        }
        // It may be right as far as it is read.
        (Ok(tail), None) => {
            for name in tail.names() {
                let _ = read(&tail, name);
            }
        }
        (Err(error), Some(_)) => panic!("only at random: {error}"),
        (Err(error), None) => assert!(!error.to_string().is_empty()),
    }
}

fn compare(tail: &Tail<&[u8]>, expected: &TensorEntry) {
    let name = &expected.header.name;
    let mut tensor = tail.tensor(name).unwrap().expect("a name of the index");
    assert_eq!(*tensor.header(), expected.header);
    for entry in &expected.blocks {
        let block = tensor.next_block().unwrap().expect("as many blocks");
        assert_eq!(
            (block.range(), block.coding(), block.changes(), block.payload_bytes()),
            (entry.range(), entry.coding(), entry.changes(), entry.payload_bytes())
        );
    }
    assert!(tensor.next_block().unwrap().is_none());
    assert_eq!(tensor.trailer(), expected.end.as_ref());
}

fn read(tail: &Tail<&[u8]>, name: &str) -> Result<()> {
    let mut tensor = tail.tensor(name)?.expect("a name of the index");
    while tensor.next_block()?.is_some() {}
    assert!(tensor.trailer().is_some());
    Ok(())
}
