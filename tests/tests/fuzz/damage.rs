//! Ways to damage a file. Some know its structure, and some do not.

use proptest::collection::vec;
use proptest::prelude::any;
use serde_json::Value;

use super::draw::{Draw, json, number, text};

/// Damages the file's content in a way that fits its name's ending. Sometimes the file is removed.
pub(crate) fn damaged(draw: &mut Draw, name: &str, content: &[u8]) -> Option<Vec<u8>> {
    if draw.one_in(30) {
        return None;
    }
    let ending = name.rsplit('.').next().unwrap_or_default();
    let mut bytes = match ending {
        _ if draw.one_in(6) => content.to_vec(),
        "json" => document(draw, content),
        "jsonl" => lines_of_json(draw, content),
        "safetensors" => tensors(draw, content),
        "png" => picture(draw, content),
        _ => lines(draw, content),
    };
    if bytes == content || draw.one_in(10) {
        bytes_of_any_file(draw, &mut bytes);
    }
    Some(bytes)
}

/// A JSON document with some of its values dropped, retyped, moved or made huge.
fn document(draw: &mut Draw, content: &[u8]) -> Vec<u8> {
    if draw.one_in(20) {
        return draw.of(json()).to_string().into_bytes();
    }
    let Ok(mut value) = serde_json::from_slice::<Value>(content) else { return content.to_vec() };
    for _ in 0..=draw.below(3) {
        edit(draw, &mut value);
    }
    let mut written = value.to_string();
    match draw.below(24) {
        0 => written = written.replacen('{', "{\"twice\":1,\"twice\":2,", 1),
        1 => written = written.replacen("null", &"[".repeat(100_000), 1),
        2 => written = written.replacen(": ", ":\u{feff}", 1),
        3 => written = format!("\u{feff}{written}"),
        4 => written = written.replacen('0', "1e999", 1),
        5 => written = written.replacen("true", "NaN", 1),
        _ => {}
    }
    written.into_bytes()
}

/// Values from which the sizes of models follow.
const SIZES: [&str; 8] = [
    "/layers_per_block",
    "/transformer_layers_per_block/1",
    "/block_out_channels/0",
    "/sample_size",
    "/norm_num_groups",
    "/num_hidden_layers",
    "/num_train_timesteps",
    "/model_max_length",
];

/// Changes one value somewhere below `value`.
fn edit(draw: &mut Draw, value: &mut Value) {
    if draw.one_in(6) {
        let found: Vec<&str> = SIZES.into_iter().filter(|place| value.pointer(place).is_some()).collect();
        if !found.is_empty() {
            let size = *draw.pick(&[0i64, 1, 1 << 10, 1 << 20, 1 << 31, 1 << 40, i64::MAX]);
            let place = *draw.pick(&found);
            if let Some(value) = value.pointer_mut(place) {
                *value = size.into();
            }
            return;
        }
    }
    let mut places = Vec::new();
    collect(value, &mut String::new(), &mut places);
    if places.is_empty() {
        *value = draw.of(json());
        return;
    }
    let place = draw.pick(&places).clone();
    let other = draw.pick(&places).clone();
    let moved = value.pointer(&other).cloned().unwrap_or_default();
    let (above, key) = place.rsplit_once('/').unwrap_or_default();
    let key = key.replace("~1", "/").replace("~0", "~");
    let Some(parent) = value.pointer_mut(above) else { return };
    let how = draw.below(8);
    match parent {
        Value::Object(entries) if how == 0 => drop(entries.remove(&key)),
        Value::Object(entries) if how == 1 => {
            let value = entries.remove(&key).unwrap_or_default();
            entries.insert(draw.of(text()), value);
        }
        Value::Array(items) if how == 0 => items.clear(),
        Value::Array(items) if how == 1 => items.push(draw.of(json())),
        _ => {
            let Some(found) = value.pointer_mut(&place) else { return };
            *found = match how {
                2 => Value::Null,
                3 => moved,
                4 => draw.of(text()).into(),
                5 if found.is_string() => found.as_str().map(|known| format!("{known}{known}")).into(),
                6 => draw.of(json()),
                _ => draw.of(number()),
            };
        }
    }
}

/// Pointers to all values below `value`.
fn collect(value: &Value, place: &mut String, places: &mut Vec<String>) {
    let mut visit = |key: &str, value: &Value| {
        let length = place.len();
        place.push('/');
        place.push_str(&key.replace('~', "~0").replace('/', "~1"));
        // For vocabularies and headers, some entries are enough.
        if places.len() < 2000 {
            places.push(place.clone());
            collect(value, place, places);
        }
        place.truncate(length);
    };
    match value {
        Value::Object(entries) => entries.iter().for_each(|(key, value)| visit(key, value)),
        Value::Array(items) => {
            items.iter().take(8).enumerate().for_each(|(index, value)| visit(&index.to_string(), value));
        }
        _ => {}
    }
}

/// Damages one of the lines of JSON, or treats them as lines of text.
fn lines_of_json(draw: &mut Draw, content: &[u8]) -> Vec<u8> {
    if draw.one_in(3) {
        return lines(draw, content);
    }
    let mut lines: Vec<Vec<u8>> =
        content.split_inclusive(|&byte| byte == b'\n').map(<[u8]>::to_vec).collect();
    if !lines.is_empty() {
        let at = draw.below(lines.len());
        lines[at] = document(draw, &lines[at]);
        lines[at].push(b'\n');
    }
    lines.concat()
}

/// Damages lines of text (TOML, tables, captions, merges). Most often it changes a value. Otherwise it drops, doubles,
/// moves or breaks lines.
fn lines(draw: &mut Draw, content: &[u8]) -> Vec<u8> {
    const ENDS: [&str; 10] = ["\"", ",", "\t", "#", "\r", "]", "{", "\\", "'''", "= 1"];
    const SEPARATORS: [&str; 4] = ["", " ", ",", "\t\t"];
    const STRANGE: [&str; 6] = ["[grid]", "[[grid]]", "[prompts]", "id\tcaption", "caption,prompt", "a a"];
    let mut lines: Vec<String> = String::from_utf8_lossy(content).lines().map(str::to_string).collect();
    for _ in 0..=draw.below(2) {
        if lines.is_empty() {
            lines.push(String::new());
        }
        let (at, to) = (draw.below(lines.len()), draw.below(lines.len()));
        let (separator, end) = (*draw.pick(&SEPARATORS), *draw.pick(&ENDS));
        if draw.one_in(30) {
            lines[at].push_str(&"a long line ".repeat(*draw.pick(&[1 << 10, 1 << 16, 1 << 22])));
        }
        if lines[at].starts_with("each") && draw.one_in(3) {
            lines[at] = many_points(*draw.pick(&[10, 50, 1000, 30_000]));
        }
        match draw.below(14) {
            0 => drop(lines.remove(at)),
            1 => lines.insert(to, lines[at].clone()),
            2 => lines.swap(at, to),
            3 => lines[at] = draw.of(text()),
            4 => lines[at] = lines[at].replacen('\t', separator, 1),
            5 => lines[at].push_str(end),
            6 => lines.insert(at, draw.pick(&STRANGE).to_string()),
            _ => match lines[at].split_once('=') {
                Some((key, _)) => lines[at] = format!("{key}= {}", toml_value(draw)),
                None => lines[at].push_str(&draw.of(text())),
            },
        }
    }
    let end = if draw.one_in(8) { *draw.pick(&["\r\n", "\r"]) } else { "\n" };
    let bytes = lines.join(end).into_bytes();
    if draw.one_in(12) { [b"\xef\xbb\xbf".to_vec(), bytes].concat() } else { bytes }
}

/// An entry of a grid that has the third power of `count` points.
fn many_points(count: usize) -> String {
    let list = |of: &dyn Fn(usize) -> String| (1..=count).map(of).collect::<Vec<_>>().join(", ");
    let (whole, shares) = (list(&|i| i.to_string()), list(&|i| format!("{}", i as f64 / (count + 1) as f64)));
    format!("each = {{ max_iterations = [{whole}], ratio = [{shares}], damping = [{shares}] }}")
}

/// A value in the form that TOML writes, or nearly.
fn toml_value(draw: &mut Draw) -> String {
    const ODD: [&str; 20] = [
        "nan",
        "inf",
        "-inf",
        "1e400",
        "true",
        "[]",
        "{}",
        "''",
        "1979-05-27",
        "0x7fffffffffffffff",
        "99999999999999999999",
        "[[1], [2, [3]]]",
        "{ a = 1, a = 2 }",
        "\"/dev/zero\"",
        "\"30%\"",
        "1_000_000_000",
        "0.5",
        "\"at-edm-fast\"",
        "\"none\"",
        "[0, 1, 2]",
    ];
    match draw.below(8) {
        0 => draw.of(json()).to_string(),
        1 => Value::from(draw.of(text())).to_string(),
        2 | 3 => draw.of(number()).to_string(),
        _ => draw.pick(&ODD).to_string(),
    }
}

/// A safetensors file whose header or data are wrong.
fn tensors(draw: &mut Draw, content: &[u8]) -> Vec<u8> {
    let Some((length, rest)) = content.split_first_chunk::<8>() else { return content.to_vec() };
    let length = usize::try_from(u64::from_le_bytes(*length)).unwrap_or(usize::MAX).min(rest.len());
    let (header, data) = rest.split_at(length);
    let (mut header, mut data) = (header.to_vec(), data.to_vec());
    let mut told = None;
    match draw.below(8) {
        0 => told = Some(*draw.pick(&[0, 1, 7, 100_000_000, 100_000_001, u64::MAX, u64::MAX - 7, 1 << 40])),
        1 => told = Some((header.len() as u64).wrapping_add(draw.pick(&[1, u64::MAX, 8]).to_owned())),
        2 => data.truncate(draw.below(data.len() + 1)),
        3 => data.extend(draw.of(vec(any::<u8>(), 1..64))),
        4 | 5 => {
            let float = *draw.pick(&[f32::NAN, f32::INFINITY, f32::MAX, -0.0, f32::MIN_POSITIVE / 2.0]);
            let whole = *draw.pick(&[-1i64, 0, 1, 1 << 20, 1 << 32, i64::MAX, i64::MIN]);
            let value =
                if draw.one_in(2) { float.to_le_bytes().to_vec() } else { whole.to_le_bytes().to_vec() };
            let count = data.len() / value.len();
            if count > 0 {
                let at = value.len() * draw.below(count);
                data[at..at + value.len()].copy_from_slice(&value);
            }
        }
        _ => header = document(draw, &header),
    }
    [told.unwrap_or(header.len() as u64).to_le_bytes().to_vec(), header, data].concat()
}

/// A PNG picture with one chunk changed. Its checksum is mostly right.
fn picture(draw: &mut Draw, content: &[u8]) -> Vec<u8> {
    let Some((signature, mut rest)) = content.split_at_checked(8) else { return content.to_vec() };
    let mut chunks: Vec<([u8; 4], Vec<u8>)> = Vec::new();
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        let length = u32::from_be_bytes(*length) as usize;
        let Some((kind, after)) = after.split_first_chunk::<4>() else { break };
        let Some((data, after)) = after.split_at_checked(length) else { break };
        chunks.push((*kind, data.to_vec()));
        rest = after.get(4..).unwrap_or_default();
    }
    if chunks.is_empty() {
        return content.to_vec();
    }
    let (at, to) = (draw.below(chunks.len()), draw.below(chunks.len()));
    let wrong_sum = draw.one_in(10).then_some(at);
    match draw.below(7) {
        0 => drop(chunks.remove(at)),
        1 => chunks.insert(to, chunks[at].clone()),
        2 => chunks.swap(at, to),
        3 => {
            let side = *draw.pick(&[0u32, 1, 63, 65, 1 << 16, 100_000, i32::MAX as u32, u32::MAX]);
            let from = *draw.pick(&[0, 4]);
            if let Some(place) = chunks[0].1.get_mut(from..from + 4) {
                place.copy_from_slice(&side.to_be_bytes());
            }
        }
        4 => {
            let (place, value) = (8 + draw.below(5), *draw.pick(&[0u8, 1, 2, 3, 4, 6, 8, 16, 255]));
            if let Some(byte) = chunks[0].1.get_mut(place) {
                *byte = value;
            }
        }
        5 => {
            chunks[at].0 =
                *draw.pick(&[*b"zTXt", *b"iTXt", *b"PLTE", *b"acTL", *b"fdAT", *b"iCCP", *b"tRNS", *b"IEND"])
        }
        _ => bytes_of_any_file(draw, &mut chunks[at].1),
    }
    let mut bytes = signature.to_vec();
    for (number, (kind, data)) in chunks.iter().enumerate() {
        let body = [&kind[..], data].concat();
        bytes.extend((data.len() as u32).to_be_bytes());
        bytes.extend(&body);
        let sum = crc32(&body) ^ u32::from(wrong_sum == Some(number));
        bytes.extend(sum.to_be_bytes());
    }
    bytes
}

/// The checksum of a PNG chunk.
fn crc32(bytes: &[u8]) -> u32 {
    let shift = |value: u32| (value >> 1) ^ (0xedb8_8320 & (value & 1).wrapping_neg());
    !bytes.iter().fold(!0, |sum, &byte| (0..8).fold(sum ^ u32::from(byte), |value, _| shift(value)))
}

/// Flips, cuts, inserts, doubles or clears bytes.
fn bytes_of_any_file(draw: &mut Draw, bytes: &mut Vec<u8>) {
    let (at, to) = (draw.below(bytes.len() + 1), draw.below(bytes.len() + 1));
    let (from, to) = (at.min(to), at.max(to));
    match draw.below(8) {
        0 => bytes.truncate(from),
        1 => bytes.clear(),
        2 => drop(bytes.drain(from..to)),
        3 => bytes[from..to].fill(0),
        4 => {
            let more = draw.of(vec(any::<u8>(), 1..32));
            bytes.splice(from..from, more);
        }
        5 => {
            let again = bytes[from..to].to_vec();
            bytes.splice(to..to, again);
        }
        _ => {
            for _ in 0..=draw.below(4) {
                if !bytes.is_empty() {
                    let at = draw.below(bytes.len());
                    bytes[at] ^= 1 << draw.below(8);
                }
            }
        }
    }
}
