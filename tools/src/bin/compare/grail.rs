//! grail v3.1: rows, columns and values of each tensor behind a JSON header, in one zstd frame.
//!
//! Kinder than the original: changes are found by their bits, and values of any dtype keep their
//! width. The original compares floats as numbers and sends all but BF16, F16 and F32 through F32.

use serde::{Deserialize, Serialize};

use crate::elements::{pack, unpack, update, Changes};
use crate::pair::Pair;
use crate::{Message, Result, Unfit, LEVEL};

#[derive(Serialize, Deserialize)]
struct Header {
    version: u32,
    tensors: Vec<Entry>,
}

#[derive(Serialize, Deserialize)]
struct Entry {
    name: String,
    shape: Vec<u64>,
    num_nonzero: usize,
    value_dtype: String,
    row_dtype: String,
    col_dtype: String,
    indices_offset: usize,
    indices_size: usize,
    rows_size: usize,
    cols_size: usize,
    values_offset: usize,
    values_size: usize,
}

/// Elements in a row: everything but the first dimension.
fn row_elements(shape: &[u64]) -> u64 {
    shape.iter().skip(1).product::<u64>().max(1)
}

/// The narrowest dtype for a stream: one large number widens all of a tensor.
fn index_dtype(numbers: &[u64], narrowest: usize) -> (&'static str, usize) {
    match numbers.iter().max().copied().unwrap_or(0) {
        0..=0xff if narrowest == 1 => ("uint8", 1),
        0..=0xffff => ("uint16", 2),
        _ => ("int32", 4),
    }
}

fn index_width(dtype: &str) -> usize {
    match dtype {
        "uint8" => 1,
        "uint16" => 2,
        _ => 4,
    }
}

pub fn encode(pair: &Pair) -> Result<Message> {
    let mut header = Header { version: 31, tensors: Vec::new() };
    let (mut body, mut changes) = (Vec::new(), Changes::default());
    for tensor in &pair.tensors {
        let (base, target) = pair.bytes_of(tensor);
        changes.find(tensor.width(), base, target);
        if changes.places.last().is_some_and(|&last| last > i32::MAX as u64) {
            return Err(
                Unfit(format!("32-bit indices do not reach the end of {}", tensor.name)).into()
            );
        }
        if changes.places.is_empty() {
            continue;
        }
        let row_elements = row_elements(tensor.spec.shape());
        let (mut rows, mut columns) = (Vec::new(), Vec::new());
        let (mut last_row, mut last_column) = (0, 0);
        for &place in &changes.places {
            let (row, column) = (place / row_elements, place % row_elements);
            // A column is absolute at the begin of a row.
            columns.push(if row == last_row { column - last_column } else { column });
            rows.push(row - last_row);
            (last_row, last_column) = (row, column);
        }
        let ((row_dtype, row_width), (col_dtype, col_width)) =
            (index_dtype(&rows, 1), index_dtype(&columns, 2));
        let offset = body.len();
        pack(&mut body, row_width, rows);
        let rows_end = body.len();
        pack(&mut body, col_width, columns);
        let cols_end = body.len();
        pack(&mut body, tensor.width(), changes.target.iter().copied());
        header.tensors.push(Entry {
            name: tensor.name.clone(),
            shape: tensor.spec.shape().to_vec(),
            num_nonzero: changes.places.len(),
            value_dtype: tensor.spec.dtype().name().into(),
            row_dtype: row_dtype.into(),
            col_dtype: col_dtype.into(),
            indices_offset: offset,
            indices_size: cols_end - offset,
            rows_size: rows_end - offset,
            cols_size: cols_end - rows_end,
            values_offset: cols_end,
            values_size: body.len() - cols_end,
        });
    }
    let json = serde_json::to_vec(&header)?;
    let frame = [&u32::try_from(json.len())?.to_le_bytes(), &json[..], &body].concat();
    Ok(Message { pieces: vec![zstd::bulk::compress(&frame, LEVEL)?], ..Message::default() })
}

pub fn decode(pair: &Pair, message: &Message, weights: &mut [u8]) -> Result<()> {
    let frame = zstd::decode_all(&message.pieces[0][..])?;
    let (length, rest) = frame.split_first_chunk().ok_or("no header")?;
    let (json, body) = rest.split_at(u32::from_le_bytes(*length) as usize);
    let header: Header = serde_json::from_slice(json)?;
    let mut tensors = pair.tensors.iter();
    for entry in &header.tensors {
        let tensor = tensors.find(|tensor| tensor.name == entry.name).ok_or("an unknown tensor")?;
        let (indices, values) = (&body[entry.indices_offset..], &body[entry.values_offset..]);
        let rows = unpack(&indices[..entry.rows_size], index_width(&entry.row_dtype));
        let columns =
            unpack(&indices[entry.rows_size..entry.indices_size], index_width(&entry.col_dtype));
        let values = unpack(&values[..entry.values_size], tensor.width());
        let row_elements = row_elements(&entry.shape);
        let (mut start, mut column) = (0, 0);
        let places = rows.iter().zip(&columns).map(|(&row, &gap)| {
            start += row * row_elements;
            column = if row == 0 { column + gap } else { gap };
            start + column
        });
        update(
            &mut weights[tensor.range.clone()],
            tensor.width(),
            places.zip(values),
            |_, value| value,
        );
    }
    Ok(())
}
