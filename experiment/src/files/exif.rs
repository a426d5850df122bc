//! How a photograph is to be turned, by its EXIF metadata.

use super::png::Picture;

/// EXIF's tag for the orientation.
const ORIENTATION: u16 = 0x0112;

/// EXIF's number for the orientation, from 1 (upright) to 8. Metadata that cannot be read mean upright.
pub(super) fn orientation(exif: &[u8]) -> u16 {
    let tiff = exif.strip_prefix(b"Exif\0\0").unwrap_or(exif);
    found(tiff).filter(|number| (1..=8).contains(number)).unwrap_or(1)
}

fn found(tiff: &[u8]) -> Option<u16> {
    let little = tiff.starts_with(b"II");
    let short = |at: usize| {
        let bytes = tiff.get(at..at.checked_add(2)?)?.try_into().ok()?;
        Some(if little { u16::from_le_bytes(bytes) } else { u16::from_be_bytes(bytes) })
    };
    let long = |at: usize| {
        let (first, second) = (u32::from(short(at)?), u32::from(short(at + 2)?));
        Some(if little { first | second << 16 } else { first << 16 | second } as usize)
    };
    let directory = long(4)?;
    let entries = usize::from(short(directory)?);
    let entry = |index: usize| directory.checked_add(2 + 12 * index);
    (0..entries).map_while(entry).find(|at| short(*at) == Some(ORIENTATION)).and_then(|at| short(at + 8))
}

/// The picture turned upright.
pub(super) fn upright(picture: Picture, orientation: u16) -> Picture {
    if orientation == 1 {
        return picture;
    }
    let (wide, high) = (picture.width, picture.height);
    let (width, height) = if orientation >= 5 { (high, wide) } else { (wide, high) };
    let mut turned = Picture::filled(width, height, [0; 3]);
    for y in 0..height {
        for x in 0..width {
            let (from_x, from_y) = match orientation {
                2 => (wide - 1 - x, y),
                3 => (wide - 1 - x, high - 1 - y),
                4 => (x, high - 1 - y),
                5 => (y, x),
                6 => (y, high - 1 - x),
                7 => (wide - 1 - y, high - 1 - x),
                _ => (wide - 1 - y, x),
            };
            turned.set(x, y, picture.pixel(from_x, from_y));
        }
    }
    turned
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pillow's `ImageOps.exif_transpose` of the rows 123 and 456.
    #[test]
    fn pictures_are_turned_as_pillow_does() {
        let picture = Picture { width: 3, height: 2, rgb: (1..=6).flat_map(|grey| [grey; 3]).collect() };
        for (orientation, (width, expected)) in (1..).zip([
            (3, [1, 2, 3, 4, 5, 6]),
            (3, [3, 2, 1, 6, 5, 4]),
            (3, [6, 5, 4, 3, 2, 1]),
            (3, [4, 5, 6, 1, 2, 3]),
            (2, [1, 4, 2, 5, 3, 6]),
            (2, [4, 1, 5, 2, 6, 3]),
            (2, [6, 3, 5, 2, 4, 1]),
            (2, [3, 6, 2, 5, 1, 4]),
        ]) {
            let turned = upright(picture.clone(), orientation);
            let greys: Vec<u8> = turned.rgb.iter().step_by(3).copied().collect();
            assert_eq!((turned.width, greys.as_slice()), (width, &expected[..]), "{orientation}");
        }
    }

    #[test]
    fn orientations_are_found_in_both_byte_orders() {
        let little = b"II*\0\x08\0\0\0\x02\0\x0f\x01\x02\0\0\0\0\0\0\0\0\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0";
        let big = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x08\0\0";
        assert_eq!((orientation(little), orientation(big)), (6, 8));
        for broken in
            [&b""[..], b"II", &little[..20], b"MM\0*\xff\xff\xff\xff", b"Exif\0\0II*\0\xff\xff\xff\xff"]
        {
            assert_eq!(orientation(broken), 1, "{broken:?}");
        }
    }
}
