//! Peak memory follows the bytes of a patch and the limits of its reader, not what the patch claims.

use crate::{alone, HEAP};
use pulse::Limits;
use testkit::hostile::{
    bomb, list, patch_of, patch_of_blocks, read, section, tiny_blocks, tiny_sections, tiny_tensors,
    varint,
};

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

/// Bytes that `work` holds at most, beyond those held before.
fn peak<T>(work: impl FnOnce() -> T) -> (usize, T) {
    let before = HEAP.current_usage();
    HEAP.reset_peak_usage();
    let result = work();
    (HEAP.peak_usage().saturating_sub(before), result)
}

/// Reads a patch; gives back its peak, the number of events, and the kind of its error.
fn cost(patch: &[u8], limits: Limits) -> (usize, usize, Option<&'static str>) {
    let (peak, (events, result)) = peak(|| read(patch, limits));
    (peak, events, result.err().map(|error| error.kind()))
}

#[test]
fn streaming_keeps_nothing_of_blocks_and_unknown_sections() {
    let _alone = alone();
    for count in [1000, 100_000] {
        for (patch, more) in [(tiny_blocks(count), 5), (tiny_sections(count), 3)] {
            let (peak, (events, result)) = peak(|| list(&patch, Limits::default()));
            result.unwrap();
            assert_eq!(events as u64, count + more);
            assert!(peak < 80 * KIB, "{peak} bytes for {count} sections");
        }
    }
}

#[cfg(feature = "checkpoint")]
#[test]
fn a_map_holds_a_few_bytes_for_each_byte_of_the_patch() {
    let _alone = alone();
    let map = |patch: &[u8], limits: Limits| {
        let patch = patch.to_vec();
        let bytes = patch.len();
        let (peak, result) = peak(move || pulse::Patch::from_bytes(patch, limits));
        (peak as f64 / bytes as f64, result)
    };
    for (what, patch, most) in [
        ("blocks", tiny_blocks(300_000), 20.0),
        ("tensors", tiny_tensors(100_000, 0), 20.0),
        ("sections", tiny_sections(300_000), 1.0),
    ] {
        let (peak, result) = map(&patch, Limits::default());
        result.unwrap();
        println!("{what}: {peak:.1} bytes held for each byte of the patch");
        assert!(peak < most, "{what}: {peak:.1} bytes held for each byte of the patch");
    }
    // And the limit ends it earlier.
    let (peak, result) = map(&tiny_blocks(300_000), Limits::default().with_blocks(1000));
    assert_eq!(result.unwrap_err().kind(), "limit");
    assert!(peak < 0.2, "{peak:.1} bytes held for each byte of the patch");
}

/// Front coding lets ten bytes stand for a name of 4096.
#[test]
fn names_that_expand_are_bounded_together() {
    let _alone = alone();
    let patch = tiny_tensors(20_000, 4090);
    assert!(patch.len() < 2 * MIB);
    let (peak, events, error) = cost(&patch, Limits::default().with_names_bytes(MIB as u64));
    assert_eq!((events, error), (1 + 2 * (MIB / 4096), Some("limit")));
    assert!(peak < 2 * MIB, "{peak} bytes");
    // They are too many for so small a patch; a reader that takes them all the same holds each once.
    let (_, _, error) = cost(&patch, Limits::default());
    assert_eq!(error, Some("limit"));
    let (peak, _, error) = cost(&patch, Limits::default().with_name_expansion(100));
    assert_eq!(error, None);
    assert!(peak < 20_000 * (4096 + 200), "{peak} bytes");
}

/// SECURITY.md: predicted signs take 4 bytes for each column and 24 for each change of a row, once a
/// block is applied; who only reads what it says takes none of that.
#[test]
fn predicted_signs_cost_a_few_bytes_for_each_column() {
    use pulse::coding::{BlockEncoder, BlockOptions, Coding};
    use pulse::dtype::Dtype;
    let _alone = alone();
    // In the first of two rows a quarter of the elements go up, here and there.
    const COLUMNS: usize = 1 << 16;
    let base = vec![128; 2 * COLUMNS];
    let is_changed = |i: usize| i < COLUMNS && (i as u32).wrapping_mul(0x9e37_79b1) >> 30 == 0;
    let target: Vec<u8> = (0..base.len()).map(|i| 128 + u8::from(is_changed(i))).collect();
    let mut encoder = BlockEncoder::new(BlockOptions::default()).with_columns(COLUMNS as u64);
    let block = encoder.encode(&Dtype::U8, &base, &target).unwrap().unwrap();
    assert_eq!(block.coding, Coding::Contextual);
    assert_eq!(block.payload[1] & 0x80, 0x80, "signs are not predicted");
    let elements = base.len() as u64;
    let (read, decoder) = peak(|| block.decode(&Dtype::U8, elements).unwrap());
    // A gap and a step for each change, a copy of the stream.
    let changes = block.changes as usize;
    assert!(read <= 16 * changes + block.payload.len() + 16 * KIB, "{read} bytes");
    drop(decoder);
    let mut weights = base.clone();
    let (applied, result) = peak(|| {
        block.decode(&Dtype::U8, elements).and_then(|mut decoder| decoder.apply(&mut weights))
    });
    result.unwrap();
    assert_eq!(weights, target);
    let signs = applied - read;
    println!("{signs} bytes for {COLUMNS} columns");
    // Two factors, and room for a change.
    assert!(signs <= 8 * COLUMNS + 16 * KIB, "{signs} bytes");
}

const LARGEST_BLOCK: u64 = 64 << 16;

/// A block of 4 MiB in which every element changes; the two streams are frames that say anything.
fn block_of(gaps: &[u8], values: &[u8]) -> Vec<u8> {
    // Flat, no leaf skipped, all 64 leaves, as many changes as elements; gaps and values in one byte each.
    let head = [&[1, 0, 64][..], &varint(LARGEST_BLOCK), &[0x21]].concat();
    patch_of_blocks(LARGEST_BLOCK, vec![[&head, gaps, values].concat()], LARGEST_BLOCK)
}

#[test]
fn a_frame_unpacks_to_what_its_block_can_hold_and_no_further() {
    let _alone = alone();
    let most = LARGEST_BLOCK as usize;
    let good = block_of(&bomb(0, most), &bomb(2, most));
    assert!(good.len() < 2000, "{} bytes", good.len());
    let (full, _, error) = cost(&good, Limits::default());
    assert_eq!(error, None);
    // Two streams of a byte, places of four and values of eight; and the last doubling of a stream.
    assert!(full <= (1 + 1 + 4 + 8 + 1) * most + MIB, "{full} bytes");
    for bytes in [2 * most, 64 * most] {
        let (peak, _, error) = cost(&block_of(&bomb(0, bytes), &bomb(2, most)), Limits::default());
        assert_eq!(error, Some("stream"), "a frame of {bytes} bytes");
        assert!(peak <= 3 * most, "{peak} bytes for a frame of {bytes}");
    }
    // Whole blocks and carried files stop at their own size.
    let whole = [&[0, 0, 1][..], &varint(65536), &[0], &bomb(0, 64 * MIB)].concat();
    let file = [&[3, 1, b'f'][..], &varint(1 << 40), &[0; 32]].concat();
    for patch in [
        patch_of_blocks(65536, vec![whole], 65536),
        patch_of(vec![section(b'l', file), section(b'd', bomb(0, 64 * MIB))], 0, 0),
    ] {
        let (peak, _, error) = cost(&patch, Limits::default());
        assert_eq!(error, Some("stream"));
        assert!(peak < 4 * MIB, "{peak} bytes");
    }
}

/// R15: a count costs nothing until there are bytes for it.
#[test]
fn counts_that_nothing_follows_cost_nothing() {
    let _alone = alone();
    let huge = varint(u64::MAX);
    let contextual = |table: Vec<u8>| {
        patch_of_blocks(
            LARGEST_BLOCK,
            vec![[&[2, 0, 64][..], &varint(LARGEST_BLOCK), &table].concat()],
            LARGEST_BLOCK,
        )
    };
    let mut metadata = testkit::forge::sections(&tiny_sections(0));
    metadata[0].payload = [&[0, 1][..], &huge].concat();
    for (what, patch, kind) in [
        ("metadata", testkit::forge::join(&tiny_sections(0), &metadata), "length"),
        (
            "dimensions",
            patch_of(vec![section(b'T', [&[0, 1, b'w', 0, 2][..], &huge].concat())], 1, 0),
            "limit",
        ),
        ("name", patch_of(vec![section(b'T', [&[0][..], &huge].concat())], 1, 0), "limit"),
        ("bytes of a tensor", patch_of_blocks(u64::MAX, vec![], 0), "limit"),
        (
            "skipped leaves",
            patch_of_blocks(1 << 40, vec![[&[1][..], &huge, &[1, 1]].concat()], 1),
            "value",
        ),
        ("changes", patch_of_blocks(1 << 40, vec![[&[1, 0, 1][..], &huge].concat()], 1), "count"),
        (
            "bytes of a stream",
            patch_of_blocks(4, vec![[&[1, 0, 1, 1, 0x21][..], &huge].concat()], 1),
            "length",
        ),
        ("changes of a class", contextual([&[0, 1][..], &huge, &[0, 0, 0]].concat()), "value"),
        ("elements of a dense class", contextual([&[0, 1][..], &huge, &[31, 0]].concat()), "value"),
        ("exceptions", contextual([&[0, 1, 8, 0, 0][..], &huge].concat()), "value"),
    ] {
        let (peak, _, error) = cost(&patch, Limits::default());
        assert_eq!(error, Some(kind), "{what}");
        assert!(peak < 100 * KIB, "{what}: {peak} bytes");
    }
}

/// Every code of a dense class is one bit: the most that a block can hold for a byte of its payload.
#[test]
fn a_contextual_block_holds_no_more_than_its_elements() {
    let _alone = alone();
    let table = [&[0, 1][..], &varint(LARGEST_BLOCK), &[31, 0]].concat();
    let codes = vec![0; LARGEST_BLOCK as usize / 8];
    let block = [&[2, 0, 64][..], &varint(LARGEST_BLOCK), &table, &codes].concat();
    let (peak, _, error) =
        cost(&patch_of_blocks(LARGEST_BLOCK, vec![block], LARGEST_BLOCK), Limits::default());
    assert_eq!(error, Some("count"), "no element changes");
    assert!(peak < 17 * LARGEST_BLOCK as usize, "{peak} bytes");
}

/// An error about a wrong name does not repeat all of it.
#[test]
fn an_index_of_wrong_names_costs_no_more_than_its_bytes() {
    let _alone = alone();
    let patch = tiny_tensors(1, 0);
    let sections = testkit::forge::sections(&patch);
    let index = &sections[sections.len() - 2].payload;
    let offset = patch.len() - 152 - (2 + index.len() + 4);
    let payload = [&[1, 0][..], &varint(32 << 20), &vec![0xff; 32 << 20], &[0]].concat();
    let mut forged = patch[..offset].to_vec();
    let start = forged.len();
    forged.push(b'I');
    forged.extend(varint(payload.len() as u64));
    forged.extend(payload);
    let crc = crc32fast::hash(&forged[start..]);
    forged.extend(crc.to_le_bytes());
    let (peak, _, error) = cost(&forged, Limits::default());
    assert_eq!(error, Some("limit"));
    assert!(peak < 3 * (32 << 20), "{peak} bytes");
}

/// At random the names of the index are all that there is: they are bounded together before they are held.
#[cfg(feature = "parallel")]
#[test]
fn a_tail_holds_its_names_and_no_more_than_its_limits() {
    use pulse::patch::{FnSource, Tail};
    let _alone = alone();
    let patch = tiny_tensors(20_000, 4090);
    let open = |limits: Limits| {
        let (peak, result) = peak(|| Tail::new(&patch, limits).map(|_| ()));
        (peak, result.err().map(|error| error.kind()))
    };
    let (peak_bytes, error) = open(Limits::default().with_names_bytes(MIB as u64));
    assert_eq!(error, Some("limit"));
    assert!(peak_bytes < 2 * MIB, "{peak_bytes} bytes");
    assert_eq!(open(Limits::default()).1, Some("limit"), "too many for so small a patch");
    let (peak_bytes, error) = open(Limits::default().with_name_expansion(100));
    assert_eq!(error, None);
    assert!(peak_bytes < 20_000 * (4096 + 200), "{peak_bytes} bytes");

    // An index of 2^62 bytes, of as many tensors as fit a number, in a source that has any number of bytes.
    let sections = testkit::forge::sections(&tiny_sections(0));
    let mut footer =
        testkit::forge::join_as_is(&patch, &sections[sections.len() - 1..])[10..].to_vec();
    let len = 1 << 62;
    for (tensors, index_offset, kind) in
        [(u64::MAX, len - 1000, "limit"), (1, 100, "limit"), (1, len, "count")]
    {
        footer[4..12].copy_from_slice(&tensors.to_le_bytes());
        footer[44..52].copy_from_slice(&u64::to_le_bytes(index_offset));
        let crc = crc32fast::hash(&footer[..148]);
        footer[148..].copy_from_slice(&crc.to_le_bytes());
        let source = FnSource::new(len, |buffer, offset| {
            let prelude = &patch[..10];
            buffer.fill(0);
            if offset == 0 {
                buffer.copy_from_slice(prelude);
            } else if offset + buffer.len() as u64 == len {
                let at = buffer.len() - footer.len();
                buffer[at..].copy_from_slice(&footer);
            }
            Ok(())
        });
        let (peak, result) = peak(|| Tail::new(source, Limits::default()).map(|_| ()));
        assert_eq!(result.unwrap_err().kind(), kind, "index at {index_offset}");
        assert!(peak < 100 * KIB, "index at {index_offset}: {peak} bytes");
    }
}

/// A tensor that is read at random takes a chunk and a block, whatever its size.
#[cfg(feature = "parallel")]
#[test]
fn a_tensor_at_random_is_not_held() {
    let _alone = alone();
    let patch = tiny_blocks(2_000_000);
    assert!(patch.len() > 16 * MIB);
    let (peak, blocks) = peak(|| {
        let tail = pulse::patch::Tail::new(&patch, Limits::default()).unwrap();
        let mut tensor = tail.tensor("w").unwrap().unwrap();
        let mut blocks = 0;
        while tensor.next_block().unwrap().is_some() {
            blocks += 1;
        }
        blocks
    });
    assert_eq!(blocks, 2_000_000);
    assert!(peak < 5 * MIB, "{peak} bytes");
}

/// Headers of safetensors files, which serde_json reads.
#[cfg(feature = "checkpoint")]
#[test]
fn hostile_headers_cost_a_few_times_their_size() {
    let _alone = alone();
    let row = |name: &str, shape: &str| {
        format!(r#""{name}":{{"dtype":"U8","shape":[{shape}],"data_offsets":[0,4]}}"#)
    };
    let empty =
        |number: u32| format!(r#""t{number}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}"#);
    let strings =
        |count: u32| (0..count).map(|i| format!(r#""{i:x}":"""#)).collect::<Vec<_>>().join(",");
    let good = row("w", "4");
    let rows: [(&str, String, Option<&str>, f64); 7] = [
        (
            "100,000 strings",
            format!(r#"{{"__metadata__":{{{}}},{good}}}"#, strings(100_000)),
            None,
            4.0,
        ),
        (
            "a string twice",
            format!(r#"{{"__metadata__":{{"k":"{}","k":""}},{good}}}"#, "v".repeat(MIB)),
            Some("checkpoint"),
            4.0,
        ),
        (
            "100,000 other keys",
            format!(r#"{{"w":{{{},{}}}}}"#, &good[5..good.len() - 1], strings(100_000)),
            None,
            4.0,
        ),
        (
            "tensors that are not there",
            {
                let rows: Vec<String> = (0..50_000).map(empty).collect();
                format!("{{{good},{}}}", rows.join(","))
            },
            Some("checkpoint"),
            20.0,
        ),
        (
            "one name again and again",
            format!("{{{}}}", vec![good.clone(); 50_000].join(",")),
            Some("checkpoint"),
            3.0,
        ),
        (
            "a million dimensions",
            format!("{{{}}}", row("w", &("1,".repeat(MIB) + "4"))),
            Some("checkpoint"),
            3.0,
        ),
        ("a million brackets", format!(r#"{{"w":{}"#, "[".repeat(MIB)), Some("checkpoint"), 3.0),
    ];
    for (what, json, kind, most) in rows {
        let patch = testkit::hostile::with_header(&json);
        let (peak, result) = peak(|| -> pulse::Result<()> {
            pulse::Patch::from_bytes(patch, Limits::default())?
                .verify(pulse::tensors::Control::threads(1))
        });
        // A file data section of 1 MiB is unpacked beside the header.
        let peak = peak.saturating_sub(3 * MIB) as f64 / json.len() as f64;
        println!("{what}: {peak:.1} bytes held for each byte of the header");
        assert_eq!(
            result.as_ref().err().map(|error| error.kind()),
            kind,
            "{what}: {:?}",
            result.err()
        );
        assert!(peak < most, "{what}: {peak:.1} bytes held for each byte of the header");
    }
}
