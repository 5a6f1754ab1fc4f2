//! The lock's own rules: what is refused, what is kept, and that writing it twice writes the same bytes.

use proptest::prelude::*;
use rstest::rstest;

use super::*;

fn digest(letter: char) -> Digest {
    Digest::try_from(format!("sha256:{}", letter.to_string().repeat(64))).unwrap()
}

fn entry(letter: char, confirmed: &str) -> LockEntry {
    LockEntry { index: digest(letter), confirmed: confirmed.to_owned(), platforms: BTreeMap::new() }
}

fn pinned(letter: char) -> Pinned {
    let amd64 = PlatformEntry { manifest: digest('1'), config: digest('2') };
    Pinned {
        host: "docker.io".to_owned(),
        index: digest(letter),
        platforms: BTreeMap::from([(Platform::Amd64, amd64)]),
    }
}

const BY_REGISTRY: &str = "registry docker.io, by `lab images lock`";

#[rstest]
#[case::empty_file("", "EOF while parsing a value at line 1")]
#[case::a_list("[]", "invalid type: sequence, expected a table in braces")]
#[case::rest_of_a_merge("{}\n<<<<<<< HEAD\n", "trailing characters at line 2")]
#[case::cut_off(r#"{"a:1": {"index": "#, "\"a:1\": EOF while parsing")]
#[case::short_digest(
    r#"{"a:1": {"index": "sha256:12", "confirmed": ""}}"#,
    "\"a:1\": \"sha256:12\" is no digest: it takes sha256: and 64 hexadecimal digits"
)]
#[case::upper_case_digest(
    r#"{"a:1": {"index": "sha256:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", "confirmed": ""}}"#,
    "AAA\" is no digest"
)]
#[case::other_algorithm(
    r#"{"a:1": {"index": "sha512:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "confirmed": ""}}"#,
    "aaa\" is no digest"
)]
#[case::digest_is_no_text(r#"{"a:1": {"index": 7, "confirmed": ""}}"#, "\"a:1\": invalid type: integer `7`")]
#[case::unknown_key(r#"{"a:1": {"digest": "x"}}"#, "\"a:1\": unknown field `digest`")]
#[case::no_confirmation(
    r#"{"a:1": {"index": "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}}"#,
    "\"a:1\": missing field `confirmed`"
)]
#[case::unknown_platform(r#"{"a:1": {"platforms": {"linux/s390x": {}}}}"#, "unknown variant `linux/s390x`")]
#[case::unknown_key_of_a_platform(
    r#"{"a:1": {"platforms": {"linux/amd64": {"size": 1}}}}"#,
    "\"a:1\": \"linux/amd64\": unknown field `size`"
)]
#[case::platform_twice(
    r#"{"a:1": {"platforms": {
        "linux/amd64": {"manifest": "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "config": "sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"},
        "linux/amd64": {"manifest": "sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb", "config": "sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"}
    }}}"#,
    "\"a:1\": \"linux/amd64\" stands there twice at line 4"
)]
fn what_is_no_lock_is_refused_with_its_key(#[case] text: &str, #[case] expected: &str) {
    let said = parse(text).unwrap_err().to_string();
    assert!(said.contains(expected), "{said}");
    assert!(said.contains(" at line ") && said.ends_with("run ./lab images lock"), "{said}");
}

#[test]
fn an_entry_that_stands_twice_is_refused() {
    let one = render(&Lock::from([("a:1".to_owned(), entry('a', "x"))])).unwrap();
    let inner = one.trim().trim_start_matches('{').trim_end_matches('}').to_owned();
    let said = parse(&format!("{{{inner},{inner}}}")).unwrap_err().to_string();
    assert!(said.contains("\"a:1\" stands there twice"), "{said}");
}

#[test]
fn the_lock_is_written_as_people_wrote_it() {
    let lock = merged(
        &Lock::from([("apache/kafka:3.9.1".to_owned(), entry('a', "four projects pin it"))]),
        &BTreeMap::from([("apache/kafka:3.9.1".to_owned(), pinned('a'))]),
        false,
    );
    insta::assert_snapshot!(render(&lock).unwrap());
}

#[test]
fn a_digest_is_that_of_the_bytes() {
    let nothing = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    assert_eq!(Digest::of(b"").as_str(), nothing);
    assert_eq!(Digest::of(b"").hex(), &nothing[7..]);
}

#[test]
fn a_tag_that_moved_loses_what_confirmed_the_old_digest() {
    let lock = Lock::from([("a:1".to_owned(), entry('a', "seen by hand"))]);
    let found = BTreeMap::from([("a:1".to_owned(), digest('b'))]);
    let change = Change::Moved { from: digest('a'), to: digest('b') };
    assert_eq!(compare(&lock, &found), BTreeMap::from([("a:1".to_owned(), change)]));
    let after = merged(&lock, &BTreeMap::from([("a:1".to_owned(), pinned('b'))]), true);
    assert_eq!(after["a:1"].confirmed, BY_REGISTRY);
    assert_eq!(documents(&after), BTreeSet::from([digest('b'), digest('1')]));
}

#[test]
fn what_nobody_asks_for_stays_until_it_may_go() {
    let lock = Lock::from([("old:1".to_owned(), entry('a', "x")), ("a:1".to_owned(), entry('b', "x"))]);
    let found = BTreeMap::from([("a:1".to_owned(), digest('b'))]);
    assert_eq!(compare(&lock, &found)["old:1"], Change::Gone);
    let now = BTreeMap::from([("a:1".to_owned(), pinned('b'))]);
    assert!(merged(&lock, &now, false).contains_key("old:1"));
    assert!(!merged(&lock, &now, true).contains_key("old:1"));
}

#[rstest]
#[case::by_hand("seen by hand", format!("seen by hand; {BY_REGISTRY}"))]
#[case::nothing_so_far("", BY_REGISTRY.to_owned())]
#[case::by_this_registry_already(BY_REGISTRY, BY_REGISTRY.to_owned())]
#[case::by_both(&format!("seen by hand; {BY_REGISTRY}"), format!("seen by hand; {BY_REGISTRY}"))]
#[case::by_another_registry(
    "registry docker.io.example, by `lab images lock`",
    format!("registry docker.io.example, by `lab images lock`; {BY_REGISTRY}")
)]
fn confirmations_of_the_same_digest_add_up(#[case] before: &str, #[case] after: String) {
    let lock = Lock::from([("a:1".to_owned(), entry('a', before))]);
    let merged = merged(&lock, &BTreeMap::from([("a:1".to_owned(), pinned('a'))]), false);
    assert_eq!(merged["a:1"].confirmed, after);
}

fn digests() -> impl Strategy<Value = Digest> {
    "[0-9a-f]{64}".prop_map(|hex| Digest::try_from(format!("sha256:{hex}")).unwrap())
}

fn platforms() -> impl Strategy<Value = BTreeMap<Platform, PlatformEntry>> {
    let one = (digests(), digests()).prop_map(|(manifest, config)| PlatformEntry { manifest, config });
    prop::collection::btree_map(prop::sample::select(&Platform::ALL[..]), one, 0..3)
}

fn locks() -> impl Strategy<Value = Lock> {
    // Any text as a confirmation: quotes, controls and all else that people type.
    let one = (digests(), any::<String>(), platforms()).prop_map(|(index, confirmed, platforms)| LockEntry {
        index,
        confirmed,
        platforms,
    });
    prop::collection::btree_map("[a-e]{1,2}:[1-3]", one, 0..6)
}

fn registries() -> impl Strategy<Value = BTreeMap<String, Pinned>> {
    let one = (digests(), platforms()).prop_map(|(index, platforms)| Pinned {
        host: "docker.io".to_owned(),
        index,
        platforms,
    });
    prop::collection::btree_map("[a-e]{1,2}:[1-3]", one, 0..6)
}

proptest! {
    #[test]
    fn what_was_written_is_read_and_written_the_same(lock in locks()) {
        let text = render(&lock).unwrap();
        let read = parse(&text).unwrap();
        prop_assert_eq!(&read, &lock);
        prop_assert_eq!(render(&read).unwrap(), text);
    }

    #[test]
    fn locking_twice_changes_nothing_more(lock in locks(), now in registries(), remove in any::<bool>()) {
        let once = merged(&lock, &now, remove);
        prop_assert_eq!(&merged(&once, &now, remove), &once);
        let found = now.iter().map(|(r, p)| (r.clone(), p.index.clone())).collect();
        for (reference, change) in compare(&once, &found) {
            let expected = if now.contains_key(&reference) { Change::Same } else { Change::Gone };
            prop_assert_eq!(change, expected);
            prop_assert!(!remove || now.contains_key(&reference));
        }
    }

    #[test]
    fn no_confirmation_of_a_digest_that_stays_is_lost(lock in locks(), remove in any::<bool>()) {
        let now = lock.iter().map(|(r, e)| {
            let host = "docker.io".to_owned();
            (r.clone(), Pinned { host, index: e.index.clone(), platforms: BTreeMap::new() })
        }).collect();
        for (reference, entry) in merged(&lock, &now, remove) {
            prop_assert!(entry.confirmed.contains(lock[&reference].confirmed.trim()));
            prop_assert!(entry.confirmed.ends_with(BY_REGISTRY));
        }
    }

    #[test]
    fn any_text_is_a_lock_or_an_error(text in any::<String>()) {
        let _ = parse(&text);
    }
}
