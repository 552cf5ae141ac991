//! The content of a file in shared pages, so that copying a whole disk copies no bytes.
//!
//! Invariants:
//! * A page that is `None` is all zeros.
//! * Bytes at and past `len` are zero, so that a longer file needs nothing but a longer length.

use std::ops::Range;
use std::sync::Arc;

/// What a disk writes whole or tears.
pub(super) const SECTOR_BYTES: usize = 512;

const PAGE_BYTES: usize = 4096;
const SECTORS_PER_PAGE: usize = PAGE_BYTES / SECTOR_BYTES;

pub(super) type Sector = [u8; SECTOR_BYTES];

static ZEROS: Sector = [0; SECTOR_BYTES];

#[derive(Debug, Clone, Default)]
pub(super) struct Image {
    pages: Arc<Vec<Option<Arc<[u8; PAGE_BYTES]>>>>,
    len: usize,
}

impl Image {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn set_len(&mut self, len: usize) {
        if len < self.len {
            let pages = Arc::make_mut(&mut self.pages);
            pages.truncate(len.div_ceil(PAGE_BYTES));
            if let Some(Some(last)) = pages.get_mut(len / PAGE_BYTES) {
                Arc::make_mut(last)[len % PAGE_BYTES..].fill(0);
            }
        }
        self.len = len;
    }

    pub(super) fn read(&self, buf: &mut [u8], offset: usize) -> usize {
        let from = offset.min(self.len);
        let len = buf.len().min(self.len - from);
        let mut done = 0;
        while done < len {
            let (page, at) = ((from + done) / PAGE_BYTES, (from + done) % PAGE_BYTES);
            let n = (len - done).min(PAGE_BYTES - at);
            match self.pages.get(page) {
                Some(Some(bytes)) => buf[done..done + n].copy_from_slice(&bytes[at..at + n]),
                _ => buf[done..done + n].fill(0),
            }
            done += n;
        }
        len
    }

    /// Writes within the length.
    pub(super) fn write(&mut self, buf: &[u8], offset: usize) {
        assert!(offset + buf.len() <= self.len, "past the end of the image");
        let mut done = 0;
        while done < buf.len() {
            let (page, at) = ((offset + done) / PAGE_BYTES, (offset + done) % PAGE_BYTES);
            let n = (buf.len() - done).min(PAGE_BYTES - at);
            self.page(page)[at..at + n].copy_from_slice(&buf[done..done + n]);
            done += n;
        }
    }

    pub(super) fn fill_zeros(&mut self, range: Range<usize>) {
        let mut at = range.start;
        while at < range.end {
            let n = (range.end - at).min(PAGE_BYTES - at % PAGE_BYTES);
            let page = at / PAGE_BYTES;
            if n == PAGE_BYTES && page < self.pages.len() {
                Arc::make_mut(&mut self.pages)[page] = None;
            } else if self.pages.get(page).is_some_and(Option::is_some) {
                self.page(page)[at % PAGE_BYTES..][..n].fill(0);
            }
            at += n;
        }
    }

    /// The bytes of a sector; zeros past the end.
    pub(super) fn sector(&self, sector: usize) -> &Sector {
        let Some(Some(page)) = self.pages.get(sector / SECTORS_PER_PAGE) else {
            return &ZEROS;
        };
        let at = sector % SECTORS_PER_PAGE * SECTOR_BYTES;
        page[at..]
            .first_chunk()
            .expect("a page is so many whole sectors")
    }

    /// Replaces a sector, as far as it is not past the end.
    pub(super) fn set_sector(&mut self, sector: usize, bytes: &Sector) {
        let start = sector * SECTOR_BYTES;
        let n = SECTOR_BYTES.min(self.len.saturating_sub(start));
        if self.sector(sector)[..n] != bytes[..n] {
            self.write(&bytes[..n], start);
        }
    }

    fn page(&mut self, page: usize) -> &mut [u8; PAGE_BYTES] {
        let pages = Arc::make_mut(&mut self.pages);
        if pages.len() <= page {
            pages.resize(page + 1, None);
        }
        Arc::make_mut(pages[page].get_or_insert_with(|| Arc::new([0; PAGE_BYTES])))
    }
}

/// The sectors that hold any of these bytes.
pub(super) fn sectors(bytes: Range<usize>) -> Range<usize> {
    match bytes.is_empty() {
        true => 0..0,
        false => bytes.start / SECTOR_BYTES..bytes.end.div_ceil(SECTOR_BYTES),
    }
}

/// The sectors of which these bytes are all, where the file ends at `len`.
pub(super) fn whole_sectors(bytes: Range<usize>, len: usize) -> Range<usize> {
    let start = bytes.start.div_ceil(SECTOR_BYTES);
    let end = match bytes.end >= len {
        true => len.div_ceil(SECTOR_BYTES),
        false => bytes.end / SECTOR_BYTES,
    };
    start..end.max(start)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_what_a_vector_would_be() {
        let mut rng = fastrand::Rng::with_seed(1);
        let (mut image, mut model) = (Image::default(), Vec::new());
        let mut copies = Vec::new();
        for _ in 0..2000 {
            let len = model.len();
            match rng.u8(..4) {
                0 => {
                    let len = rng.usize(..30_000);
                    image.set_len(len);
                    model.resize(len, 0);
                }
                1 if len > 0 => {
                    let start = rng.usize(..len);
                    let end = rng.usize(start..=len.min(start + 9000));
                    image.fill_zeros(start..end);
                    model[start..end].fill(0);
                }
                _ => {
                    let at = rng.usize(..=len);
                    let n = rng.usize(..=(len - at).min(5000));
                    let bytes = vec![rng.u8(1..); n];
                    image.write(&bytes, at);
                    model[at..at + n].copy_from_slice(&bytes);
                }
            }
            copies.push((image.clone(), model.clone()));
            let (image, model) = &copies[rng.usize(copies.len().saturating_sub(20)..copies.len())];
            let mut bytes = vec![7; model.len() + 1];
            assert_eq!(image.read(&mut bytes, 0), model.len());
            assert_eq!(bytes[..model.len()], model[..]);
            let sector = rng.usize(..70);
            let expected: Vec<u8> = model.iter().skip(sector * 512).take(512).copied().collect();
            assert_eq!(image.sector(sector)[..expected.len()], expected[..]);
            assert!(
                image.sector(sector)[expected.len()..]
                    .iter()
                    .all(|&b| b == 0)
            );
        }
    }

    #[test]
    fn a_sector_is_whole_when_all_of_it_in_the_file_is_covered() {
        assert_eq!(whole_sectors(0..512, 2000), 0..1);
        assert_eq!(whole_sectors(1..1024, 2000), 1..2);
        assert_eq!(whole_sectors(1..1023, 2000), 1..1);
        assert_eq!(whole_sectors(1024..2000, 2000), 2..4);
        assert_eq!(sectors(511..513), 0..2);
        assert_eq!(sectors(5..5), 0..0);
    }
}
