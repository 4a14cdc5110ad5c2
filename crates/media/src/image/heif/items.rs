//! The items of a HEIF file: where their bytes lie, what they are, and how they make one picture.

use std::collections::BTreeMap;
use std::sync::Arc;

use image::DynamicImage;

use super::codec::Codec;
use crate::boxes::{Atoms, Fault, Fields, Name, find, require};
use crate::reason::Reason;

/// Everything that the box `meta` says.
#[derive(Debug)]
pub(super) struct Items {
    pub(super) primary: u32,
    items: BTreeMap<u32, Item>,
    /// Kind, from, to.
    references: Vec<([u8; 4], u32, Vec<u32>)>,
    /// The contents of the box `idat`, in which small items lie.
    data: Vec<u8>,
}

#[derive(Debug, Default)]
struct Item {
    kind: [u8; 4],
    in_data: bool,
    /// Offsets and lengths of the parts.
    extents: Vec<(u64, u64)>,
    properties: Vec<Property>,
}

/// A property of an item.
#[derive(Clone, Debug)]
enum Property {
    Size([usize; 2]),
    HevcHeaders(Arc<[u8]>),
    Colours {
        matrix: u16,
        full: bool,
    },
    Transform(Transform),
    /// Keeps `[height, width]` pixels; how far their centre is from the picture's, times two.
    Crop([usize; 2], [i64; 2]),
    Alpha,
    Other,
}

/// A change of the decoded picture.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Transform {
    /// Keeps `[height, width]` pixels from a row and a column on.
    Crop { size: [usize; 2], from: [usize; 2] },
    /// Quarter turns against the clock.
    Turn(u8),
    /// Exchanges top and bottom.
    FlipRows,
    /// Exchanges left and right.
    FlipColumns,
}

/// A picture: one coded picture, or a grid of them.
#[derive(Debug)]
pub(super) struct Layout {
    pub(super) codec: Codec,
    /// Height and width before the transforms.
    pub(super) size: [usize; 2],
    pub(super) columns: usize,
    pub(super) tiles: Vec<u32>,
    pub(super) transforms: Vec<Transform>,
    /// Number of the matrix of the colours, and whether they take all values.
    pub(super) colours: Option<(u16, bool)>,
}

impl Items {
    pub(super) fn read(file: &[u8]) -> Result<Self, Fault> {
        let meta = Fields::versioned("meta", require(file, &[b"meta"])?)?.0.rest();
        let (mut pitm, version, _) = Fields::versioned("pitm", require(meta, &[b"pitm"])?)?;
        let primary = number(&mut pitm, version > 0)?;
        let data = find(meta, b"idat")?.unwrap_or_default().to_vec();
        let mut items = Self { primary, items: BTreeMap::new(), references: Vec::new(), data };
        items.kinds(require(meta, &[b"iinf"])?)?;
        items.places(require(meta, &[b"iloc"])?)?;
        items.properties(require(meta, &[b"iprp"])?)?;
        if let Some(iref) = find(meta, b"iref")? {
            items.references(iref)?;
        }
        Ok(items)
    }

    fn kinds(&mut self, iinf: &[u8]) -> Result<(), Fault> {
        let (mut fields, version, _) = Fields::versioned("iinf", iinf)?;
        number(&mut fields, version > 0)?;
        for entry in Atoms::new(fields.rest()) {
            let entry = entry?;
            let (mut fields, version, _) = Fields::versioned("infe", entry.body)?;
            if version < 2 {
                continue;
            }
            let id = number(&mut fields, version > 2)?;
            fields.u16()?;
            self.items.entry(id).or_default().kind = fields.u32()?.to_be_bytes();
        }
        Ok(())
    }

    fn places(&mut self, iloc: &[u8]) -> Result<(), Fault> {
        let (mut fields, version, _) = Fields::versioned("iloc", iloc)?;
        let sizes = fields.u16()?;
        let [offset, length, base, index] = [12, 8, 4, 0].map(|shift| usize::from(sizes >> shift & 15));
        for _ in 0..number(&mut fields, version > 1)? {
            let id = number(&mut fields, version > 1)?;
            let method = if version > 0 { fields.u16()? & 15 } else { 0 };
            if method > 1 || fields.u16()? != 0 {
                return Err(Fault::foreign("its parts lie in other files or items"));
            }
            let base = sized(&mut fields, base)?;
            let item = self.items.entry(id).or_default();
            item.in_data = method == 1;
            let count = fields.u16()?;
            // Such parts take no bytes of the box, which bounds the number of all others.
            if count > 1 && offset + length == 0 {
                return Err(Fault::damaged(format!("the item {id} has {count} parts without a place")));
            }
            for _ in 0..count {
                sized(&mut fields, if version > 0 { index } else { 0 })?;
                let start = base.saturating_add(sized(&mut fields, offset)?);
                item.extents.push((start, sized(&mut fields, length)?));
            }
        }
        Ok(())
    }

    fn properties(&mut self, iprp: &[u8]) -> Result<(), Fault> {
        let mut known = Vec::new();
        for atom in Atoms::new(require(iprp, &[b"ipco"])?) {
            let atom = atom?;
            known.push(property(&atom.name.0, atom.body)?);
        }
        let (mut fields, version, flags) = Fields::versioned("ipma", require(iprp, &[b"ipma"])?)?;
        for _ in 0..fields.u32()? {
            let id = number(&mut fields, version > 0)?;
            for _ in 0..fields.u8()? {
                let index = if flags & 1 == 1 { fields.u16()? & 0x7fff } else { u16::from(fields.u8()? & 0x7f) };
                let chosen = usize::from(index).checked_sub(1).and_then(|index| known.get(index));
                self.items.entry(id).or_default().properties.extend(chosen.cloned());
            }
        }
        Ok(())
    }

    fn references(&mut self, iref: &[u8]) -> Result<(), Fault> {
        let (fields, version, _) = Fields::versioned("iref", iref)?;
        for atom in Atoms::new(fields.rest()) {
            let atom = atom?;
            let mut fields = Fields::new("iref", atom.body);
            let from = number(&mut fields, version > 0)?;
            let mut to = Vec::new();
            for _ in 0..fields.u16()? {
                to.push(number(&mut fields, version > 0)?);
            }
            self.references.push((atom.name.0, from, to));
        }
        Ok(())
    }

    fn item(&self, id: u32) -> Result<&Item, Fault> {
        self.items.get(&id).ok_or_else(|| Fault::damaged(format!("the item {id} is missing")))
    }

    /// How the item `id` is put together.
    pub(super) fn layout(&self, file: &[u8], id: u32) -> Result<Layout, Fault> {
        let item = self.item(id)?;
        let parts = || {
            let of = self.references.iter().find(|(kind, from, _)| kind == b"dimg" && *from == id);
            of.map(|(.., to)| to.clone())
                .filter(|to| !to.is_empty())
                .ok_or_else(|| Fault::damaged("a grid without parts"))
        };
        let (tiles, columns, size) = match &item.kind {
            b"grid" => {
                let (columns, size) = grid(&self.bytes(file, id)?)?;
                (parts()?, columns, Some(size))
            }
            _ => (vec![id], 1, None),
        };
        let first = self.item(tiles[0])?;
        let codec = Codec::of(&first.kind)
            .ok_or_else(|| Fault::foreign(format!("its pictures are {}, not HEVC or AV1", Name(first.kind))))?;
        let size = size.or_else(|| item.size()).ok_or_else(|| Fault::damaged("the size of the picture is missing"))?;
        if size.contains(&0) {
            return Err(Fault::damaged("the picture has a side of 0"));
        }
        let rows = tiles.len().div_ceil(columns);
        if rows * columns != tiles.len() {
            return Err(Fault::damaged(format!("a grid of {columns} columns has {} parts", tiles.len())));
        }
        let transforms = item.transforms(size)?;
        let colours = item.colours().or_else(|| first.colours());
        Ok(Layout { codec, size, columns, tiles, transforms, colours })
    }

    /// The item that holds the transparency of the picture.
    pub(super) fn alpha(&self) -> Option<u32> {
        let of_picture = |(kind, _, to): &&([u8; 4], u32, Vec<u32>)| kind == b"auxl" && to.contains(&self.primary);
        let is_alpha = |id: &u32| {
            let properties = self.items.get(id).map(|item| item.properties.as_slice()).unwrap_or_default();
            properties.iter().any(|property| matches!(property, Property::Alpha))
        };
        self.references.iter().filter(of_picture).map(|(_, from, _)| *from).find(is_alpha)
    }

    /// The bytes of an item, its parts joined.
    pub(super) fn bytes(&self, file: &[u8], id: u32) -> Result<Vec<u8>, Fault> {
        let item = self.item(id)?;
        let place = if item.in_data { self.data.as_slice() } else { file };
        let mut bytes = Vec::new();
        for (start, length) in &item.extents {
            let rest = usize::try_from(*start).ok().and_then(|start| place.get(start..)).unwrap_or_default();
            // A length of 0 means all that is left.
            let length = if *length == 0 { rest.len() as u64 } else { *length };
            if length > rest.len() as u64 || bytes.len() as u64 + length > place.len() as u64 {
                return Err(Fault::damaged(format!(
                    "the picture is truncated: {length} bytes from {start} on are missing"
                )));
            }
            bytes.extend_from_slice(&rest[..length as usize]);
        }
        Ok(bytes)
    }

    /// The headers of an HEVC picture.
    pub(super) fn hevc_headers(&self, id: u32) -> Result<&[u8], Fault> {
        let found = self.item(id)?.properties.iter().find_map(|property| match property {
            Property::HevcHeaders(headers) => Some(&**headers),
            _ => None,
        });
        found.ok_or_else(|| Fault::damaged("the box `hvcC` of a picture is missing"))
    }
}

/// Most changes of one picture; a crop, a turn and a flip are three.
const MOST_TRANSFORMS: usize = 8;

impl Item {
    fn size(&self) -> Option<[usize; 2]> {
        self.properties.iter().find_map(|property| if let Property::Size(size) = property { Some(*size) } else { None })
    }

    fn colours(&self) -> Option<(u16, bool)> {
        self.properties.iter().find_map(|property| match property {
            Property::Colours { matrix, full } => Some((*matrix, *full)),
            _ => None,
        })
    }

    /// The transforms in order; a crop is placed in the picture that it gets.
    fn transforms(&self, mut size: [usize; 2]) -> Result<Vec<Transform>, Fault> {
        let mut transforms = Vec::new();
        for property in &self.properties {
            let transform = match property {
                Property::Transform(transform) => *transform,
                Property::Crop(kept, offset) => {
                    crop(size, *kept, *offset).ok_or_else(|| Fault::damaged("a crop lies outside of the picture"))?
                }
                _ => continue,
            };
            if transforms.len() == MOST_TRANSFORMS {
                return Err(Fault::damaged("the picture is turned and cut too often"));
            }
            size = transform.size(size);
            transforms.push(transform);
        }
        Ok(transforms)
    }
}

impl Transform {
    pub(super) fn size(self, [height, width]: [usize; 2]) -> [usize; 2] {
        match self {
            Self::Crop { size, .. } => size,
            Self::Turn(1 | 3) => [width, height],
            _ => [height, width],
        }
    }

    pub(super) fn apply(self, picture: DynamicImage) -> DynamicImage {
        match self {
            Self::Crop { size: [height, width], from: [top, left] } => {
                let [left, top, width, height] = [left, top, width, height].map(|n| n as u32);
                picture.crop_imm(left, top, width, height)
            }
            Self::Turn(1) => picture.rotate270(),
            Self::Turn(2) => picture.rotate180(),
            Self::Turn(3) => picture.rotate90(),
            Self::Turn(_) => picture,
            Self::FlipRows => picture.flipv(),
            Self::FlipColumns => picture.fliph(),
        }
    }
}

fn property(name: &[u8; 4], body: &[u8]) -> Result<Property, Fault> {
    let mut fields = Fields::new("ipco", body);
    Ok(match name {
        b"ispe" => {
            fields.u32()?;
            let (width, height) = (fields.u32()?, fields.u32()?);
            Property::Size([height, width].map(|side| side as usize))
        }
        b"hvcC" => Property::HevcHeaders(body.into()),
        b"colr" if body.starts_with(b"nclx") => {
            fields.bytes(8)?;
            Property::Colours { matrix: fields.u16()?, full: fields.u8()? & 0x80 != 0 }
        }
        b"irot" => Property::Transform(Transform::Turn(fields.u8()? & 3)),
        b"imir" if fields.u8()? & 1 == 0 => Property::Transform(Transform::FlipRows),
        b"imir" => Property::Transform(Transform::FlipColumns),
        b"clap" => clean_aperture(&mut fields)?,
        b"auxC" if contains_alpha(body) => Property::Alpha,
        _ => Property::Other,
    })
}

fn contains_alpha(body: &[u8]) -> bool {
    const NAMES: [&[u8]; 2] = [b"urn:mpeg:mpegB:cicp:systems:auxiliary:alpha\0", b"urn:mpeg:hevc:2015:auxid:1\0"];
    body.get(4..).is_some_and(|name| NAMES.iter().any(|alpha| name.starts_with(alpha)))
}

/// Reads size and offset of a crop, all of them fractions.
fn clean_aperture(fields: &mut Fields<'_>) -> Result<Property, Reason> {
    let mut fraction = || -> Result<f64, Reason> {
        let (above, below) = (fields.i32()?, fields.i32()?);
        Ok(f64::from(above) / f64::from(below.max(1)))
    };
    let (width, height, right, down) = (fraction()?, fraction()?, fraction()?, fraction()?);
    let size = [height, width].map(|side| side.round().max(0.0) as usize);
    Ok(Property::Crop(size, [down, right].map(|offset| (2.0 * offset).round() as i64)))
}

/// Places a crop in a picture of the size `whole`; `None` if it is empty or lies outside.
fn crop(whole: [usize; 2], size: [usize; 2], offset: [i64; 2]) -> Option<Transform> {
    let corner = |axis: usize| {
        let room = whole[axis].checked_sub(size[axis]).filter(|_| size[axis] > 0)?;
        usize::try_from((room as i64).saturating_add(offset[axis]) / 2).ok().filter(|corner| *corner <= room)
    };
    Some(Transform::Crop { size, from: [corner(0)?, corner(1)?] })
}

/// Columns and size `[height, width]` of a grid.
fn grid(body: &[u8]) -> Result<(usize, [usize; 2]), Fault> {
    let mut fields = Fields::new("grid", body);
    fields.u8()?;
    let wide = fields.u8()? & 1 == 1;
    let (_rows, columns) = (fields.u8()?, usize::from(fields.u8()?) + 1);
    let (width, height) = (number(&mut fields, wide)?, number(&mut fields, wide)?);
    Ok((columns, [height as usize, width as usize]))
}

/// Reads 32 bits, or else 16.
fn number(fields: &mut Fields<'_>, wide: bool) -> Result<u32, Reason> {
    if wide { fields.u32() } else { Ok(u32::from(fields.u16()?)) }
}

/// Reads a number of 0, 4 or 8 bytes.
fn sized(fields: &mut Fields<'_>, bytes: usize) -> Result<u64, Reason> {
    match bytes {
        0 => Ok(0),
        4 => Ok(u64::from(fields.u32()?)),
        _ => fields.u64(),
    }
}
