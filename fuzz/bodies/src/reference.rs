//! A second decoder of blocks, written from SPEC.md §7 alone: slow, with exact integers and a bit at a time.
//!
//! It shares no code with the library. Only the inside of zstd frames is left to libzstd; where a
//! frame ends and what it asks for is read here.

use std::io::Read;

/// Why a block is refused; the words are for a person who compares the two.
pub type Refused = &'static str;

/// A dtype as the codings see it (§6.2, §7.1).
#[derive(Debug, Clone, Copy)]
pub struct Kind {
    /// Bits of an element.
    pub bits: u32,
    pub order: Order,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    Unsigned,
    Signed,
    /// With so many bits of mantissa.
    Float(u32),
}

impl Kind {
    /// The dtype of this code on the wire.
    pub fn of_code(code: u8) -> Kind {
        use Order::{Float, Signed, Unsigned};
        let (bytes, order) = match code {
            3 => (1, Signed),
            4 => (1, Float(3)),
            5 => (1, Float(2)),
            7 => (2, Signed),
            8 => (2, Unsigned),
            9 => (2, Float(10)),
            10 => (2, Float(7)),
            11 => (4, Signed),
            12 => (4, Unsigned),
            13 => (4, Float(23)),
            14 | 17 => (8, Unsigned),
            15 => (8, Float(52)),
            16 => (8, Signed),
            _ => (1, Unsigned),
        };
        Kind { bits: 8 * bytes, order }
    }

    pub fn bytes(self) -> usize {
        self.bits as usize / 8
    }

    /// 2^w.
    fn patterns(self) -> u128 {
        1 << self.bits
    }

    fn sign(self) -> u128 {
        1 << (self.bits - 1)
    }

    fn not(self, x: u128) -> u128 {
        self.patterns() - 1 - x
    }

    fn rank(self, x: u128) -> u128 {
        match self.order {
            Order::Unsigned => x,
            Order::Signed => x ^ self.sign(),
            Order::Float(_) if x & self.sign() != 0 => self.not(x),
            Order::Float(_) => x ^ self.sign(),
        }
    }

    fn of_rank(self, r: u128) -> u128 {
        match self.order {
            Order::Unsigned => r,
            Order::Signed => r ^ self.sign(),
            Order::Float(_) if r & self.sign() != 0 => r ^ self.sign(),
            Order::Float(_) => self.not(r),
        }
    }

    /// The element that a step, zigzag coded, leads to.
    fn stepped(self, base: u128, zigzag: u128) -> u128 {
        let (rank, patterns) = (self.rank(base) as i128, self.patterns() as i128);
        let step =
            if zigzag.is_multiple_of(2) { zigzag as i128 / 2 } else { -(zigzag as i128 + 1) / 2 };
        self.of_rank((rank + step).rem_euclid(patterns) as u128)
    }

    fn greatest_exponent(self) -> u128 {
        match self.order {
            Order::Float(mantissa) => (1 << (self.bits - 1 - mantissa)) - 1,
            _ => 0,
        }
    }

    fn exponent(self, base: u128) -> u128 {
        match self.order {
            Order::Float(mantissa) => base >> mantissa & self.greatest_exponent(),
            _ => 0,
        }
    }
}

/// Bytes of a payload, taken from the front.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: u128) -> Result<&'a [u8], Refused> {
        if len > self.0.len() as u128 {
            return Err("length");
        }
        let (taken, rest) = self.0.split_at(len as usize);
        self.0 = rest;
        Ok(taken)
    }

    fn u8(&mut self) -> Result<u8, Refused> {
        Ok(self.take(1)?[0])
    }

    fn varint(&mut self) -> Result<u128, Refused> {
        let mut value = 0u128;
        for i in 0.. {
            let byte = self.u8()?;
            value += u128::from(byte & 0x7f) << (7 * i);
            if value >= 1 << 64 || i == 10 {
                return Err("varint");
            }
            if byte < 0x80 {
                return if i > 0 && byte == 0 { Err("varint") } else { Ok(value) };
            }
        }
        unreachable!()
    }

    /// A packed stream of at most `max` bytes (§7.2).
    fn packed(&mut self, max: u128) -> Result<Vec<u8>, Refused> {
        let head = self.varint()?;
        let bytes = self.take(head / 2)?;
        if head % 2 == 0 {
            return if bytes.len() as u128 <= max { Ok(bytes.to_vec()) } else { Err("stream") };
        }
        let content = unpack(bytes, max)?;
        if content.len() as u128 > max {
            return Err("stream");
        }
        Ok(content)
    }

    fn packed_exactly(&mut self, len: u128) -> Result<Vec<u8>, Refused> {
        let content = self.packed(len)?;
        if content.len() as u128 == len {
            Ok(content)
        } else {
            Err("stream")
        }
    }

    fn end(self) -> Result<(), Refused> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err("length")
        }
    }
}

/// The content of a frame (§7.2), which must be all of `frame`.
fn unpack(frame: &[u8], max: u128) -> Result<Vec<u8>, Refused> {
    let little =
        |bytes: &[u8]| bytes.iter().rev().fold(0u128, |value, &byte| value << 8 | u128::from(byte));
    let mut rest = Reader(frame);
    let mut field = |bytes: u128| rest.take(bytes).map_err(|_| "stream");
    if field(4)? != [0x28, 0xb5, 0x2f, 0xfd] {
        return Err("stream");
    }
    let size = match field(1)?[0] {
        0x20 => little(field(1)?),
        0x60 => little(field(2)?) + 256,
        0xa0 => little(field(4)?),
        0xe0 => little(field(8)?),
        _ => return Err("stream"),
    };
    if size > max {
        return Err("stream");
    }
    loop {
        let header = little(field(3)?);
        let (last, kind, block) = (header & 1, header >> 1 & 3, header >> 3);
        if block > size.min(1 << 17) {
            return Err("stream");
        }
        field(match kind {
            1 => 1,
            3 => return Err("stream"),
            _ => block,
        })?;
        if last == 1 {
            break;
        }
    }
    if !rest.0.is_empty() {
        return Err("stream");
    }
    // In steps, so that a lie about the size costs nothing.
    let mut content = Vec::new();
    let decoder = zstd::stream::read::Decoder::new(frame).map_err(|_| "stream")?;
    decoder.take(size as u64 + 1).read_to_end(&mut content).map_err(|_| "stream")?;
    if content.len() as u128 == size {
        Ok(content)
    } else {
        Err("stream")
    }
}

/// Turns the base bytes of a block into target bytes (§7, §8.2). `columns` are those of the matrix, if
/// the tensor is one; the block starts with a row.
pub fn decode(
    coding: u8,
    kind: Kind,
    columns: Option<u64>,
    base: &[u8],
    changes: u64,
    payload: &[u8],
) -> Result<Vec<u8>, Refused> {
    let width = kind.bytes();
    let word =
        |bytes: &[u8]| bytes.iter().rev().fold(0u128, |value, &byte| value << 8 | u128::from(byte));
    let mut elements: Vec<u128> = base.chunks(width).map(word).collect();
    match coding {
        0 => whole(kind, &mut elements, payload)?,
        1 => flat(kind, &mut elements, u128::from(changes), payload)?,
        2 => contextual(kind, columns, &mut elements, u128::from(changes), payload)?,
        _ => return Err("value"),
    }
    let mut target = Vec::with_capacity(base.len());
    elements.iter().for_each(|element| target.extend_from_slice(&element.to_le_bytes()[..width]));
    Ok(target)
}

/// §7.4.
fn whole(kind: Kind, elements: &mut [u128], payload: &[u8]) -> Result<(), Refused> {
    let mut payload = Reader(payload);
    let rotated = match payload.u8()? {
        0 => false,
        1 => true,
        _ => return Err("value"),
    };
    elements.fill(0);
    for plane in 0..kind.bytes() {
        let bytes = payload.packed_exactly(elements.len() as u128)?;
        for (element, byte) in elements.iter_mut().zip(bytes) {
            *element += u128::from(byte) << (8 * plane);
        }
    }
    if rotated {
        // The lowest bit was the highest.
        elements.iter_mut().for_each(|x| *x = *x / 2 + *x % 2 * kind.sign());
    }
    payload.end()
}

/// §7.3.
fn flat(kind: Kind, elements: &mut [u128], changes: u128, payload: &[u8]) -> Result<(), Refused> {
    let mut payload = Reader(payload);
    let form = payload.u8()?;
    let (gap_width, form, value_width) = (form & 7, form >> 3 & 3, form >> 5);
    if gap_width > 3 || form > 2 || value_width > 4 {
        return Err("value");
    }
    let gaps = numbers(&mut payload, gap_width, changes)?;
    let values = numbers(&mut payload, value_width, changes)?;
    payload.end()?;
    let mut at = 0u128;
    for (gap, value) in gaps.into_iter().zip(values) {
        at += gap;
        let element =
            usize::try_from(at).ok().and_then(|at| elements.get_mut(at)).ok_or("position")?;
        if value >= kind.patterns() || value == 0 && form != 2 {
            return Err("value");
        }
        *element = match form {
            0 => kind.stepped(*element, value),
            1 => *element ^ value,
            _ => value,
        };
        at += 1;
    }
    Ok(())
}

/// A packed stream of `count` numbers, all of them varints or of one width.
fn numbers(payload: &mut Reader<'_>, width: u8, count: u128) -> Result<Vec<u128>, Refused> {
    let mut numbers = Vec::new();
    if width == 0 {
        let bytes = payload.packed(10 * count)?;
        let mut bytes = Reader(&bytes);
        for _ in 0..count {
            numbers.push(bytes.varint()?);
        }
        bytes.end()?;
    } else {
        let width = 1 << (width - 1);
        let bytes = payload.packed_exactly(count * width)?;
        for number in bytes.chunks(width as usize) {
            numbers.push(number.iter().rev().fold(0, |value, &byte| value << 8 | u128::from(byte)));
        }
    }
    Ok(numbers)
}

/// The codes of a contextual block, bit by bit (§7.5).
struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Bits<'_> {
    fn bit(&mut self) -> Result<u128, Refused> {
        let byte = *self.bytes.get(self.at / 8).ok_or("stream")?;
        let bit = byte >> (self.at % 8) & 1;
        self.at += 1;
        Ok(bit.into())
    }

    fn bits(&mut self, n: u32) -> Result<u128, Refused> {
        let mut value = 0;
        for i in 0..n {
            value += self.bit()? << i;
        }
        Ok(value)
    }

    fn rice(&mut self, k: u32, raw: u32) -> Result<u128, Refused> {
        let mut quotient = 0u128;
        while quotient < 24 && self.bit()? == 1 {
            quotient += 1;
        }
        if quotient < 24 {
            return Ok((quotient << k) + self.bits(k)?);
        }
        let value = self.bits(raw)?;
        if value >> k >= 24 {
            Ok(value)
        } else {
            Err("value")
        }
    }
}

/// One row of the table of a contextual block.
struct Class {
    count: u128,
    gap_k: u32,
    exception_k: u32,
    magnitude_k: u32,
    exceptions: u128,
}

impl Class {
    fn read(payload: &mut Reader<'_>, kind: Kind) -> Result<Class, Refused> {
        let mut class = Class {
            count: payload.varint()?,
            gap_k: 0,
            exception_k: 0,
            magnitude_k: 0,
            exceptions: 0,
        };
        if class.count == 0 {
            return Ok(class);
        }
        let parameters = u32::from(payload.u8()?) + (u32::from(payload.u8()?) << 8);
        class.gap_k = parameters & 31;
        class.exception_k = parameters >> 5 & 31;
        class.magnitude_k = parameters >> 10;
        if class.magnitude_k >= kind.bits {
            return Err("value");
        }
        if class.is_dense() {
            return if class.exception_k == 0 { Ok(class) } else { Err("value") };
        }
        class.exceptions = payload.varint()?;
        if class.exception_k > 30 || class.exceptions > class.count {
            return Err("value");
        }
        if class.exceptions == 0 && class.exception_k + class.magnitude_k > 0 {
            return Err("reserved");
        }
        Ok(class)
    }

    fn is_dense(&self) -> bool {
        self.gap_k == 31
    }

    /// Gap and zigzag, or magnitude if signs are predicted, of each change, or of each code if the class is dense.
    fn changes(
        &self,
        bits: &mut Bits<'_>,
        kind: Kind,
        predicts: bool,
    ) -> Result<Vec<(u128, u128)>, Refused> {
        const FAR: u128 = u32::MAX as u128;
        let mut list = Vec::new();
        if self.is_dense() {
            for _ in 0..self.count {
                list.push((0, bits.rice(self.magnitude_k, kind.bits)?));
            }
        } else {
            for _ in 0..self.count {
                list.push((bits.rice(self.gap_k, 32)?, 2));
            }
            if list.iter().any(|entry| entry.0 >= FAR) {
                return Err("position");
            }
            for entry in &mut list {
                entry.1 = if predicts { 1 } else { 2 - bits.bit()? };
            }
            let (mut at, mut places) = (0, Vec::new());
            for _ in 0..self.exceptions {
                let ordinary = bits.rice(self.exception_k, 32)?;
                at += ordinary;
                if ordinary >= FAR || at >= self.count {
                    return Err("position");
                }
                places.push(at as usize);
                at += 1;
            }
            for place in places {
                let magnitude = 2 + bits.rice(self.magnitude_k, kind.bits)?;
                list[place].1 =
                    if predicts { magnitude } else { 2 * magnitude - list[place].1 % 2 };
            }
        }
        if list.iter().any(|entry| entry.1 >= kind.patterns() >> u32::from(predicts)) {
            return Err("value");
        }
        Ok(list)
    }
}

/// §7.5.
fn contextual(
    kind: Kind,
    columns: Option<u64>,
    elements: &mut [u128],
    changes: u128,
    payload: &[u8],
) -> Result<(), Refused> {
    let mut payload = Reader(payload);
    let lowest = payload.varint()?;
    let byte = payload.u8()?;
    let (classes, predicts) = (u128::from(byte & 0x7f), byte & 0x80 != 0);
    let columns = columns.filter(|columns| (1..=65536).contains(columns));
    if !(1..=32).contains(&classes) || predicts && columns.is_none() {
        return Err("value");
    }
    let table =
        (0..classes).map(|_| Class::read(&mut payload, kind)).collect::<Result<Vec<_>, _>>()?;
    if lowest + classes - 1 > kind.greatest_exponent() {
        return Err("value");
    }
    let mut bits = Bits { bytes: payload.0, at: 0 };
    let counts: u128 = table.iter().map(|class| class.count).sum();
    if counts > elements.len() as u128 || counts > 8 * bits.bytes.len() as u128 {
        return Err("value");
    }
    let mut lists = table
        .iter()
        .map(|class| class.changes(&mut bits, kind, predicts))
        .collect::<Result<Vec<_>, _>>()?;
    while !bits.at.is_multiple_of(8) {
        if bits.bit()? == 1 {
            return Err("reserved");
        }
    }
    let rest = &bits.bytes[bits.at / 8..];
    if !predicts && !rest.is_empty() {
        return Err("stream");
    }
    let mut signs = match columns.filter(|_| predicts) {
        Some(columns) => Some(Signs::new(columns as usize, rest)?),
        None => None,
    };
    if lists.iter().flatten().filter(|entry| entry.1 != 0).count() as u128 != changes {
        return Err("count");
    }
    lists.iter_mut().for_each(|list| list.reverse());
    let gap = |list: &Vec<(u128, u128)>| list.last().map(|entry| entry.0);
    let mut left: Vec<Option<u128>> = lists.iter().map(gap).collect();
    for (i, element) in elements.iter_mut().enumerate() {
        let class = (kind.exponent(*element).clamp(lowest, lowest + classes - 1) - lowest) as usize;
        match &mut left[class] {
            None => {}
            Some(0) => {
                let (_, mut zigzag) = lists[class].pop().expect("a change is due");
                if let (Some(signs), 1..) = (&mut signs, zigzag) {
                    // It was a magnitude.
                    zigzag = 2 * zigzag - u128::from(signs.is_down(i));
                }
                *element = kind.stepped(*element, zigzag);
                left[class] = gap(&lists[class]);
            }
            Some(unchanged) => *unchanged -= 1,
        }
    }
    if lists.iter().any(|list| !list.is_empty()) {
        return Err("position");
    }
    if signs.is_some_and(|signs| signs.missing != 3 || signs.code >= 1 << 24) {
        return Err("stream");
    }
    Ok(())
}

/// §7.6.
struct Signs<'a> {
    stream: &'a [u8],
    /// Bytes that were taken although they are not there.
    missing: usize,
    range: i128,
    code: i128,
    columns: Vec<[i128; 2]>,
    row: Option<usize>,
    factors: [i128; 2],
    weight: i128,
    seen: Vec<(usize, i128)>,
}

impl<'a> Signs<'a> {
    fn new(columns: usize, stream: &'a [u8]) -> Result<Self, Refused> {
        let mut signs = Signs {
            stream,
            missing: 0,
            range: (1 << 32) - 1,
            code: 0,
            columns: (0..columns)
                .map(|c| if c % 2 == 0 { [256, 256] } else { [256, -256] })
                .collect(),
            row: None,
            factors: [0, 0],
            weight: 16384,
            seen: Vec::new(),
        };
        (0..4).for_each(|_| signs.shift());
        if signs.code < signs.range {
            Ok(signs)
        } else {
            Err("stream")
        }
    }

    fn shift(&mut self) {
        let byte = match self.stream.split_first() {
            Some((&byte, rest)) => {
                self.stream = rest;
                byte
            }
            None => {
                self.missing += 1;
                0
            }
        };
        self.code = self.code * 256 + i128::from(byte);
    }

    fn predict(&self, c: usize) -> i128 {
        (self.factors[0] * self.columns[c][0] + self.factors[1] * self.columns[c][1])
            .div_euclid(4096)
    }

    fn is_down(&mut self, element: usize) -> bool {
        let (row, c) = (element / self.columns.len(), element % self.columns.len());
        if self.row.is_some_and(|before| before != row) {
            for (k, s) in std::mem::take(&mut self.seen) {
                let e = s - self.predict(k);
                for j in 0..2 {
                    let v = self.columns[k][j] + (e * self.factors[j]).div_euclid(2048);
                    self.columns[k][j] = v.clamp(-8191, 8191);
                }
            }
            (self.factors, self.weight) = ([0, 0], 16384);
        }
        self.row = Some(row);
        let d = self.predict(c);
        let bound = self.range / 65536 * (32768 + 8 * d).clamp(1024, 64512);
        let down = self.code >= bound;
        if down {
            self.code -= bound;
            self.range -= bound;
        } else {
            self.range = bound;
        }
        while self.range < 1 << 24 {
            self.range *= 256;
            self.shift();
        }
        let s = if down { -4096 } else { 4096 };
        self.seen.push((c, s));
        let [a, b] = self.columns[c];
        self.weight = (self.weight + (a * a + b * b) / 4096).min(1 << 30);
        let t = (s - d) * 16384 / self.weight;
        for j in 0..2 {
            let u = self.factors[j] + (t * self.columns[c][j]).div_euclid(16384);
            self.factors[j] = u.clamp(-8191, 8191);
        }
        down
    }
}
