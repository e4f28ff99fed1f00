//! Metainfo (BEP 3): the `info` dictionary that an info hash names, read with suspicion and built deterministically.
//!
//! A [`Metainfo`] can only be made by checking: its paths stay below the folder they are written to, its sizes add up,
//! and its info hash is the SHA-1 of the very bytes it keeps. Torrents of version 1 and hybrids (BEP 52) are read by
//! their version 1 part; one that is version 2 only is refused by name.

mod paths;

use bytes::Bytes;
use sha1::{Digest, Sha1};

use super::bencode::{self, Node};
use super::id::InfoHash;
use paths::{check_name, check_unique};

/// Most pieces of a torrent: a bitfield of 128 KiB.
pub const MAX_PIECES: usize = 1 << 20;

/// Most files of a torrent.
pub const MAX_FILES: usize = 100_000;

/// Longest piece. Real torrents stop at 16 or 32 MiB.
pub const MAX_PIECE_LENGTH: u32 = 64 << 20;

/// Deepest path: far below what file systems take.
const MAX_DEPTH: usize = 64;

/// Why bytes are not the metainfo of a torrent that can be stored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MetainfoError {
    /// Not bencode.
    #[error(transparent)]
    Bencode(#[from] bencode::Error),
    /// A key that is missing or of the wrong type.
    #[error("the torrent has no valid \"{0}\"")]
    Missing(&'static str),
    /// BEP 52 without the version 1 part.
    #[error("the torrent is version 2 only, which is not supported")]
    V2Only,
    /// Nothing in it.
    #[error("the torrent is empty")]
    Empty,
    /// Past one of this module's bounds.
    #[error("the torrent has too many or too large {0}")]
    TooLarge(&'static str),
    /// The number of piece hashes does not fit the length.
    #[error("the torrent's piece hashes do not fit its length")]
    PiecesDoNotFit,
    /// A file name that is empty, leads elsewhere, or that two files share.
    #[error("the torrent has an unsafe file name: {0:?}")]
    UnsafePath(String),
}

/// A file of a torrent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// Its path below the torrent's folder; at least one component, each a plain name.
    pub path: Vec<String>,
    /// Where its bytes begin among those of all files, laid end to end.
    pub offset: u64,
    /// Its length in bytes.
    pub length: u64,
    /// Whether it exists only to align the next file (BEP 47 `p`) or is a link (`l`): such a file is not stored.
    pub virtual_file: bool,
}

/// What an info hash names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metainfo {
    info_hash: InfoHash,
    info: Bytes,
    name: String,
    files: Vec<File>,
    single_file: bool,
    piece_length: u32,
    pieces: usize,
    /// The part of `info` that holds the hashes of the pieces.
    hashes: Bytes,
    private: bool,
}

impl Metainfo {
    /// Reads a bare `info` dictionary, as peers send it (BEP 9).
    ///
    /// # Errors
    /// See [`MetainfoError`].
    pub fn from_info(info: Bytes) -> Result<Self, MetainfoError> {
        let node = bencode::decode(&info)?;
        let read = Info::read(&node)?;
        let info_hash = InfoHash(Sha1::digest(&info).into());
        let Info { name, files, single_file, piece_length, pieces, private } = read;
        let hashes = node.get(b"pieces").and_then(Node::bytes).map_or_else(Bytes::new, |hashes| info.slice_ref(hashes));
        Ok(Self { info_hash, name, files, single_file, piece_length, pieces, hashes, private, info })
    }

    /// Reads a metainfo file. Trackers and web seeds in it are not looked at.
    ///
    /// # Errors
    /// See [`MetainfoError`].
    pub fn from_torrent(torrent: &[u8]) -> Result<Self, MetainfoError> {
        let node = bencode::decode(torrent)?;
        let info = node.get(b"info").ok_or(MetainfoError::Missing("info"))?;
        Self::from_info(Bytes::copy_from_slice(info.raw))
    }

    /// A metainfo file that holds nothing but the `info` dictionary.
    #[must_use]
    pub fn to_torrent(&self) -> Vec<u8> {
        bencode::dict(|d| {
            d.raw(b"info", &self.info);
        })
    }

    /// Builds the metainfo of a folder, always the same for the same names and content: files are sorted by path, and
    /// nothing of time or place goes in.
    ///
    /// `hashes` are the SHA-1 of each piece of the files laid end to end *in the order of [`sorted`]*.
    ///
    /// # Errors
    /// As for reading: a name that is unsafe, no content, counts past the bounds.
    pub fn build(
        name: &str,
        files: &[(Vec<String>, u64)],
        piece_length: u32,
        hashes: &[[u8; 20]],
    ) -> Result<Self, MetainfoError> {
        let length = |n: u64| i64::try_from(n).map_err(|_| MetainfoError::TooLarge("files"));
        let mut entries = bencode::Writer::default();
        for (path, len) in files {
            let len = length(*len)?;
            entries.dict(|d| {
                d.int(b"length", len).list(b"path", |list| path.iter().for_each(|part| list.bytes(part.as_bytes())));
            });
        }
        let entries = entries.finish();
        let info = bencode::dict(|d| {
            d.raw(b"files", &[b"l", entries.as_slice(), b"e"].concat())
                .bytes(b"name", name.as_bytes())
                .int(b"piece length", i64::from(piece_length))
                .bytes(b"pieces", hashes.as_flattened());
        });
        Self::from_info(Bytes::from(info))
    }

    /// SHA-1 of the `info` dictionary.
    #[must_use]
    pub fn info_hash(&self) -> InfoHash {
        self.info_hash
    }

    /// The bencoded `info` dictionary.
    #[must_use]
    pub fn info(&self) -> &Bytes {
        &self.info
    }

    /// The suggested name of the file or folder, safe as a file name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The files in the order of their bytes.
    #[must_use]
    pub fn files(&self) -> &[File] {
        &self.files
    }

    /// Whether this is one file rather than a folder.
    #[must_use]
    pub fn is_single_file(&self) -> bool {
        self.single_file
    }

    /// Length of all pieces but perhaps the last.
    #[must_use]
    pub fn piece_length(&self) -> u32 {
        self.piece_length
    }

    /// How many pieces there are.
    #[must_use]
    pub fn pieces(&self) -> usize {
        self.pieces
    }

    /// The SHA-1 that a piece must have; `None` past the last one.
    #[must_use]
    pub fn piece_hash(&self, piece: usize) -> Option<[u8; 20]> {
        self.hashes.as_chunks().0.get(piece).copied()
    }

    /// Sum of the files' lengths.
    #[must_use]
    pub fn total_length(&self) -> u64 {
        self.files.last().map_or(0, |last| last.offset + last.length)
    }

    /// BEP 27: a private torrent's peers come from its own tracker only, never from the DHT or peer exchange.
    #[must_use]
    pub fn is_private(&self) -> bool {
        self.private
    }
}

/// The order in which [`Metainfo::build`] takes the files of a folder.
#[must_use]
pub fn sorted(mut files: Vec<(Vec<String>, u64)>) -> Vec<(Vec<String>, u64)> {
    files.sort();
    files
}

/// The piece length for content of this size: the power of two that makes about a thousand pieces, between 16 KiB, a
/// single block, and 4 MiB, past which a reader waits too long for the first verified piece.
#[must_use]
pub fn piece_length_for(total: u64) -> u32 {
    let wanted = (total / 1024).next_power_of_two();
    u32::try_from(wanted.clamp(1 << 14, 1 << 22)).expect("clamped to 4 MiB")
}

/// What is read from an `info` dictionary, before its bytes are tied to it.
struct Info {
    name: String,
    files: Vec<File>,
    single_file: bool,
    piece_length: u32,
    pieces: usize,
    private: bool,
}

impl Info {
    fn read(node: &Node<'_>) -> Result<Self, MetainfoError> {
        node.entries().ok_or(MetainfoError::Missing("info"))?;
        let Some(hashes) = node.get(b"pieces").and_then(Node::bytes) else {
            let v2 = node.get(b"file tree").is_some();
            return Err(if v2 { MetainfoError::V2Only } else { MetainfoError::Missing("pieces") });
        };
        let name = text(node, b"name.utf-8", b"name").ok_or(MetainfoError::Missing("name"))?;
        check_name(&name)?;
        let piece_length = node.get(b"piece length").and_then(Node::int);
        let piece_length = piece_length.and_then(|n| u32::try_from(n).ok()).filter(|n| *n > 0);
        let piece_length = piece_length.ok_or(MetainfoError::Missing("piece length"))?;
        if piece_length > MAX_PIECE_LENGTH {
            return Err(MetainfoError::TooLarge("pieces"));
        }
        let (mut files, single_file) = match node.get(b"files") {
            Some(list) => (read_files(list)?, false),
            None => {
                let length = length(node).ok_or(MetainfoError::Missing("length"))?;
                (vec![File { path: vec![name.clone()], offset: 0, length, virtual_file: false }], true)
            }
        };
        let mut total = 0_u64;
        for file in &mut files {
            file.offset = total;
            total = total.checked_add(file.length).ok_or(MetainfoError::TooLarge("files"))?;
        }
        let (pieces, fragment) = (hashes.len() / 20, hashes.len() % 20);
        if total == 0 {
            return Err(MetainfoError::Empty);
        }
        if pieces > MAX_PIECES {
            return Err(MetainfoError::TooLarge("pieces"));
        }
        if fragment != 0 || total.div_ceil(u64::from(piece_length)) != pieces as u64 {
            return Err(MetainfoError::PiecesDoNotFit);
        }
        let private = node.get(b"private").and_then(Node::int) == Some(1);
        Ok(Self { name, files, single_file, piece_length, pieces, private })
    }
}

fn read_files(list: &Node<'_>) -> Result<Vec<File>, MetainfoError> {
    let entries = list.items().ok_or(MetainfoError::Missing("files"))?;
    if entries.len() > MAX_FILES {
        return Err(MetainfoError::TooLarge("files"));
    }
    let files: Vec<File> = entries.iter().map(read_file).collect::<Result<_, _>>()?;
    check_unique(&files)?;
    Ok(files)
}

fn read_file(entry: &Node<'_>) -> Result<File, MetainfoError> {
    let length = length(entry).ok_or(MetainfoError::Missing("length"))?;
    let path = entry.get(b"path.utf-8").or_else(|| entry.get(b"path")).and_then(Node::items);
    let path = path.ok_or(MetainfoError::Missing("path"))?;
    if path.is_empty() || path.len() > MAX_DEPTH {
        return Err(MetainfoError::UnsafePath(format!("a path of {} names", path.len())));
    }
    let path: Vec<String> = path.iter().map(lossy).collect::<Option<_>>().ok_or(MetainfoError::Missing("path"))?;
    path.iter().try_for_each(|name| check_name(name))?;
    let attributes = entry.get(b"attr").and_then(Node::bytes).unwrap_or_default();
    Ok(File { path, offset: 0, length, virtual_file: attributes.iter().any(|a| matches!(a, b'p' | b'l')) })
}

fn length(node: &Node<'_>) -> Option<u64> {
    u64::try_from(node.get(b"length")?.int()?).ok()
}

fn text(node: &Node<'_>, preferred: &[u8], key: &[u8]) -> Option<String> {
    lossy(node.get(preferred).or_else(|| node.get(key))?)
}

/// Old torrents have names in other encodings; what is not UTF-8 becomes U+FFFD, and [`check_unique`] refuses names that
/// became the same.
fn lossy(node: &Node<'_>) -> Option<String> {
    node.bytes().map(|bytes| String::from_utf8_lossy(bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn folder(files: &[(&[&str], u64)]) -> Result<Metainfo, MetainfoError> {
        let files: Vec<_> =
            files.iter().map(|(path, len)| (path.iter().map(|&p| p.to_owned()).collect(), *len)).collect();
        let total: u64 = files.iter().map(|(_, len)| len).sum();
        Metainfo::build("site", &files, 1 << 14, &vec![[7; 20]; total.div_ceil(1 << 14) as usize])
    }

    #[test]
    fn a_folder_is_built_and_read_back() {
        let built = folder(&[(&["index.md"], 5), (&["img", "a.png"], 20_000), (&["empty"], 0)]).unwrap();
        assert_eq!((built.pieces(), built.total_length(), built.is_single_file()), (2, 20_005, false));
        let expected = b"d5:filesld6:lengthi5e4:pathl8:index.mdeed6:lengthi20000e4:pathl3:img5:a.pngee\
            d6:lengthi0e4:pathl5:emptyeee4:name4:site12:piece lengthi16384e6:pieces40:";
        assert_eq!(*built.info(), [expected.as_slice(), &[7; 40], b"e"].concat());
        assert_eq!(Metainfo::from_torrent(&built.to_torrent()).unwrap(), built);
        assert_eq!(built.files()[1].path, ["img", "a.png"]);
        assert_eq!(built.files().iter().map(|file| file.offset).collect::<Vec<_>>(), [0, 5, 20_005]);
    }

    #[test]
    fn the_info_hash_is_of_the_bytes_as_they_came() {
        // Keys out of order: the hash is of these bytes, not of their sorted form.
        let info = b"d6:pieces20:aaaaaaaaaaaaaaaaaaaa4:name1:x6:lengthi1e12:piece lengthi16384ee";
        let metainfo = Metainfo::from_info(Bytes::from_static(info)).unwrap();
        assert_eq!(metainfo.info_hash().0, <[u8; 20]>::from(Sha1::digest(info)));
        assert_eq!((metainfo.is_single_file(), metainfo.name()), (true, "x"));
        let torrent = [b"d8:announce1:x4:info".as_slice(), info, b"e"].concat();
        assert_eq!(Metainfo::from_torrent(&torrent).unwrap().info_hash(), metainfo.info_hash());
    }

    #[test]
    fn padding_is_not_stored_and_may_repeat() {
        let info = b"d5:filesld6:lengthi1e4:pathl1:aeed4:attr1:p6:lengthi9e4:pathl4:.pad1:9ee\
            d4:attr1:p6:lengthi9e4:pathl4:.pad1:9eee4:name1:x12:piece lengthi32e6:pieces20:aaaaaaaaaaaaaaaaaaaae";
        let metainfo = Metainfo::from_info(Bytes::from_static(info)).unwrap();
        assert_eq!(metainfo.files().iter().map(|file| file.virtual_file).collect::<Vec<_>>(), [false, true, true]);
    }

    #[test]
    fn what_is_no_torrent_gets_a_clear_sentence() {
        let table: &[(&[u8], &str)] = &[
            (b"le", "the torrent has no valid \"info\""),
            (b"de", "the torrent has no valid \"pieces\""),
            (b"d9:file treede12:meta versioni2e4:name1:xe", "the torrent is version 2 only, which is not supported"),
            (b"d6:pieces0:e", "the torrent has no valid \"name\""),
            (b"d4:name1:x6:pieces0:e", "the torrent has no valid \"piece length\""),
            (b"d4:name1:x12:piece lengthi0e6:pieces0:e", "the torrent has no valid \"piece length\""),
            (b"d4:name1:x12:piece lengthi67108865e6:pieces0:e", "the torrent has too many or too large pieces"),
            (b"d4:name1:x12:piece lengthi16384e6:pieces0:e", "the torrent has no valid \"length\""),
            (b"d6:lengthi-1e4:name1:x12:piece lengthi16384e6:pieces0:e", "the torrent has no valid \"length\""),
            (b"d6:lengthi0e4:name1:x12:piece lengthi16384e6:pieces0:e", "the torrent is empty"),
            (
                b"d6:lengthi1e4:name1:x12:piece lengthi16384e6:pieces0:e",
                "the torrent's piece hashes do not fit its length",
            ),
            (
                b"d6:lengthi1e4:name1:x12:piece lengthi16384e6:pieces1:ae",
                "the torrent's piece hashes do not fit its length",
            ),
            (b"d6:lengthi1e4:name2:..12:piece lengthi16384e6:pieces0:e", "the torrent has an unsafe file name: \"..\""),
        ];
        for (info, sentence) in table {
            let error = Metainfo::from_info(Bytes::from_static(info)).unwrap_err();
            assert_eq!(error.to_string(), *sentence, "{}", info.escape_ascii());
        }
        assert!(matches!(Metainfo::from_torrent(b"de"), Err(MetainfoError::Missing("info"))));
        let huge = b"d5:filesld6:lengthi9223372036854775807e4:pathl1:aeed6:lengthi9223372036854775807e4:pathl1:bee\
            d6:lengthi9e4:pathl1:ceee4:name1:x12:piece lengthi1e6:pieces0:e";
        assert_eq!(Metainfo::from_info(Bytes::from_static(huge)), Err(MetainfoError::TooLarge("files")));
    }

    #[test]
    fn piece_lengths_grow_with_the_content() {
        let table = [
            (0, 1 << 14),
            (1 << 20, 1 << 14),
            (16 << 20, 1 << 14),
            (17 << 20, 1 << 15),
            (1 << 30, 1 << 20),
            (u64::MAX / 2, 1 << 22),
        ];
        for (total, piece_length) in table {
            assert_eq!(piece_length_for(total), piece_length, "{total}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(at in 0_usize..200, bit in 0_u8..8, noise: Vec<u8>) {
            let good = folder(&[(&["index.md"], 5), (&["img", "a.png"], 20_000)]).unwrap();
            let mut near = good.info().to_vec();
            let at = at % near.len();
            near[at] ^= 1 << bit;
            for bytes in [near[..at].to_vec(), near, noise] {
                if let Ok(read) = Metainfo::from_info(Bytes::from(bytes)) {
                    prop_assert!(read.info_hash() != good.info_hash());
                    prop_assert!(read.total_length() > 0 && read.pieces() > 0);
                }
            }
        }

        #[test]
        fn the_order_files_are_found_in_does_not_matter(names in prop::collection::btree_set("[a-z]{1,8}", 1..20)) {
            let found: Vec<_> = names.iter().map(|name| (vec![name.clone()], name.len() as u64)).collect();
            let backwards: Vec<_> = found.iter().rev().cloned().collect();
            prop_assert_eq!(sorted(found), sorted(backwards));
        }
    }
}
