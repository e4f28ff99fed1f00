use proptest::prelude::*;

use super::*;

#[test]
fn the_examples_of_bep_3() {
    assert_eq!(decode(b"4:spam").unwrap().bytes(), Some(b"spam".as_slice()));
    assert_eq!(decode(b"i3e").unwrap().int(), Some(3));
    assert_eq!(decode(b"i-3e").unwrap().int(), Some(-3));
    assert_eq!(decode(b"i0e").unwrap().int(), Some(0));
    assert_eq!(decode(b"l4:spam4:eggse").unwrap().items().unwrap().len(), 2);
    let dict = decode(b"d3:cow3:moo4:spaml1:a1:bee").unwrap();
    assert_eq!(dict.get(b"cow").unwrap().text(), Some("moo"));
    assert_eq!(dict.get(b"spam").unwrap().raw, b"l1:a1:be");
    assert!(dict.is_canonical());
}

#[test]
fn what_is_not_bencode_is_refused() {
    let table: &[&[u8]] = &[
        b"",
        b"i",
        b"ie",
        b"i-e",
        b"i-0e",
        b"i03e",
        b"i00e",
        b"i+3e",
        b"i3",
        b"i 3e",
        b"3:ab",
        b"03:abc",
        b"-1:a",
        b"99999999999999999999:a",
        b"18446744073709551615:a",
        b"l",
        b"li1e",
        b"d",
        b"d1:ae",
        b"di1ei2ee",
        b"d1:a",
        b"e",
        b"x",
        b"i1ei2e",
        b"4:spamx",
        b"d1:ai1e1:ai2ee",
        b"d1:bi1e1:ai1e1:bi2ee",
    ];
    for text in table {
        assert!(decode(text).is_err(), "{}", text.escape_ascii());
    }
}

#[test]
fn unsorted_keys_are_read_but_not_canonical() {
    let node = decode(b"d1:bi1e1:ai2ee").unwrap();
    assert_eq!(node.get(b"a").unwrap().int(), Some(2));
    assert!(!node.is_canonical());
    assert!(!decode(b"ld1:bi1e1:ai2eee").unwrap().is_canonical());
}

#[test]
fn integers_of_any_size_are_bencode() {
    let node = decode(b"i123456789012345678901234567890e").unwrap();
    assert_eq!(node.kind, Kind::Int(None));
    assert_eq!(node.int(), None);
    assert_eq!(decode(b"i-9223372036854775808e").unwrap().int(), Some(i64::MIN));
}

#[test]
fn depth_and_count_are_bounded() {
    let deep = [vec![b'l'; MAX_DEPTH + 2], vec![b'e'; MAX_DEPTH + 2]].concat();
    assert_eq!(decode(&deep).unwrap_err().reason, "nested too deeply");
    let fits = [vec![b'l'; MAX_DEPTH], vec![b'e'; MAX_DEPTH]].concat();
    assert!(decode(&fits).is_ok());
    let wide = [b"l".as_slice(), &b"0:".repeat(MAX_NODES + 1), b"e"].concat();
    assert_eq!(decode(&wide).unwrap_err().reason, "too many values");
}

#[test]
fn a_prefix_leaves_the_rest() {
    let (node, rest) = decode_prefix(b"d8:msg_typei1eepayload").unwrap();
    assert_eq!(node.get(b"msg_type").unwrap().int(), Some(1));
    assert_eq!(rest, b"payload");
}

/// A value the writer can write.
#[derive(Debug, Clone)]
enum Any {
    Int(i64),
    Bytes(Vec<u8>),
    List(Vec<Any>),
    Dict(std::collections::BTreeMap<Vec<u8>, Any>),
}

fn any_value() -> impl Strategy<Value = Any> {
    let leaf = prop_oneof![any::<i64>().prop_map(Any::Int), any::<Vec<u8>>().prop_map(Any::Bytes)];
    leaf.prop_recursive(4, 40, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Any::List),
            prop::collection::btree_map(any::<Vec<u8>>(), inner, 0..6).prop_map(Any::Dict),
        ]
    })
}

fn write(value: &Any, w: &mut Writer) {
    match value {
        Any::Int(n) => w.int(*n),
        Any::Bytes(b) => w.bytes(b),
        Any::List(items) => w.list(|w| items.iter().for_each(|v| write(v, w))),
        Any::Dict(entries) => w.dict(|d| {
            for (key, value) in entries {
                let mut inner = Writer::default();
                write(value, &mut inner);
                d.raw(key, &inner.finish());
            }
        }),
    }
}

fn rewrite(node: &Node<'_>, w: &mut Writer) {
    match &node.kind {
        Kind::Int(n) => w.int(n.unwrap()),
        Kind::Bytes(b) => w.bytes(b),
        Kind::List(items) => w.list(|w| items.iter().for_each(|v| rewrite(v, w))),
        Kind::Dict(entries) => w.dict(|d| {
            for (key, value) in entries {
                d.raw(key, value.raw);
            }
        }),
    }
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(value in any_value()) {
        let mut w = Writer::default();
        write(&value, &mut w);
        let text = w.finish();
        let node = decode(&text).unwrap();
        prop_assert!(node.is_canonical());
        prop_assert_eq!(node.raw, &text[..]);
        let mut again = Writer::default();
        rewrite(&node, &mut again);
        prop_assert_eq!(again.finish(), text);
    }

    #[test]
    fn no_input_panics_and_raw_is_always_a_slice_of_it(input in prop::collection::vec(prop::sample::select(b"dlie0123456789:-ab".to_vec()), 0..64)) {
        if let Ok(node) = decode(&input) {
            prop_assert_eq!(node.raw, &input[..]);
        }
    }

    #[test]
    fn a_truncated_document_is_refused(value in any_value(), cut in 1usize..20) {
        let mut w = Writer::default();
        write(&value, &mut w);
        let text = w.finish();
        let shorter = &text[..text.len().saturating_sub(cut)];
        prop_assert!(decode(shorter).is_err());
    }
}
