//! What is planted, and every spelling that it is looked for in.

use aho_corasick::AhoCorasick;

/// The account's key at the upstream.
pub(crate) const ACCOUNT: &str = "csk-Acc0unt+key/needle=\"01\"";
/// The key of the caller whose secrets are looked for.
pub(crate) const CALLER: &str = "Caller-One+key/needle=\"02\"";
/// Another caller, who must see nothing of that one's.
pub(crate) const OTHER: &str = "Caller-Two+key/needle=\"03\"";
/// A key that nobody has given out.
pub(crate) const STRANGER: &str = "Stranger+key/needle=\"04\"";
/// The password of the server that replicas share.
pub(crate) const SHARED: &str = "Shared+pass/needle=\"05\"";
/// What the collector of traces is sent as a key.
pub(crate) const COLLECTOR: &str = "Collector+key/needle=\"06\"";

/// A prompt, an answer, and what else callers and upstreams write.
pub(crate) const PROMPT: &str = "Ümläut prompt-needle <07> \"quoted\" & more";
pub(crate) const ANSWER: &str = "Änswer answer-needle <08> \"quoted\" & more";
pub(crate) const TOOL: &str = "töol-needle <09> \"quoted\" & more";
pub(crate) const PATH: &str = "path-needle-10-which-nobody-serves";
pub(crate) const QUERY: &str = "query-needle-11-of-an-url";
pub(crate) const HEADER: &str = "header-needle-12 which \"is\" <anything>";
pub(crate) const CODE: &str = "Code-needle <13> of an upstream's error";
/// The prompt of a batch's line, which is kept in its directory.
pub(crate) const LINE: &str = "line-needle <14> of a file";
pub(crate) const FILE: &str = "file-needle-15-name";

const KEYS: [&str; 6] = [ACCOUNT, CALLER, OTHER, STRANGER, SHARED, COLLECTOR];
const TEXTS: [&str; 9] = [PROMPT, ANSWER, TOOL, PATH, QUERY, HEADER, CODE, LINE, FILE];

/// So much of a secret is as good as the whole: shorter parts are in other texts as well.
const PART: usize = 12;

/// Secrets to be looked for.
pub(crate) struct Needles {
    search: AhoCorasick,
    /// The secret that each part is of.
    of: Vec<&'static str>,
}

impl Needles {
    /// Everything that is planted.
    pub(crate) fn all() -> Self {
        Self::of(&[&KEYS[..], &TEXTS].concat())
    }

    pub(crate) fn keys() -> Self {
        Self::of(&KEYS)
    }

    /// What another caller must not see: that one's own key is its own.
    pub(crate) fn of_others() -> Self {
        Self::of(&[ACCOUNT, CALLER, SHARED, COLLECTOR, PROMPT, ANSWER, TOOL, LINE, FILE, CODE])
    }

    fn of(secrets: &[&'static str]) -> Self {
        let (mut parts, mut of) = (Vec::new(), Vec::new());
        for secret in secrets {
            let more = spellings(secret);
            of.extend(more.iter().map(|_| *secret));
            parts.extend(more);
        }
        Self { search: AhoCorasick::new(parts).expect("there are not so many"), of }
    }

    /// Checks that not even a part of any of them is there, however it is spelt.
    pub(crate) fn are_not_in(&self, place: &str, text: &[u8]) {
        let found = self.search.find(text).map(|found| {
            let (from, to) = (found.start().saturating_sub(300), found.end() + 300);
            let around = String::from_utf8_lossy(&text[from..to.min(text.len())]).into_owned();
            (self.of[found.pattern().as_usize()], around)
        });
        assert_eq!(found, None, "a part of a secret is in {place}");
    }
}

/// Whether a text is there as it is.
pub(crate) fn holds(text: &[u8], secret: &str) -> bool {
    memchr::memmem::find(text, secret.as_bytes()).is_some()
}

/// The parts of a secret, in every spelling.
fn spellings(secret: &str) -> Vec<Vec<u8>> {
    let mut whole: Vec<Vec<u8>> = vec![
        secret.as_bytes().to_vec(),
        secret.to_ascii_lowercase().into_bytes(),
        secret.to_ascii_uppercase().into_bytes(),
        percent(secret, |byte| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte)),
        percent(secret, |byte| byte.is_ascii_graphic() && !b"\"<>".contains(&byte)),
        inner(&serde_json::to_string(secret).expect("text")),
        inner(&format!("{secret:?}")),
        inner(&escaped_json(secret)),
        secret.replace('&', "&amp;").replace('<', "&lt;").replace('"', "&quot;").into_bytes(),
        secret.bytes().map(|byte| format!("{byte:02x}")).collect::<String>().into_bytes(),
        format!("{:?}", secret.as_bytes()).trim_matches(['[', ']']).as_bytes().to_vec(),
    ];
    // Where a text begins within three bytes decides how it looks in base 64.
    for alphabet in [*b"+/", *b"-_"] {
        for skipped in 0..3 {
            whole.push(base64(&secret.as_bytes()[skipped..], alphabet));
        }
    }
    let mut parts: Vec<_> = whole
        .iter()
        .flat_map(|spelling| {
            // As much of it as stands for that many bytes.
            let length = (PART * spelling.len()).div_ceil(secret.len()).min(spelling.len());
            spelling.windows(length).map(<[u8]>::to_vec)
        })
        .collect();
    parts.sort_unstable();
    parts.dedup();
    parts
}

fn inner(quoted: &str) -> Vec<u8> {
    quoted.as_bytes()[1..quoted.len() - 1].to_vec()
}

fn percent(text: &str, plain: impl Fn(u8) -> bool) -> Vec<u8> {
    let spell =
        |byte: u8| if plain(byte) { vec![byte] } else { format!("%{byte:02X}").into_bytes() };
    text.bytes().flat_map(spell).collect()
}

/// JSON in ASCII only, as Python writes it.
fn escaped_json(text: &str) -> String {
    let spell = |unit: u16| match char::from_u32(u32::from(unit)) {
        Some(c) if c.is_ascii_graphic() && c != '"' || c == ' ' => c.to_string(),
        Some('"') => "\\\"".to_owned(),
        _ => format!("\\u{unit:04x}"),
    };
    format!("\"{}\"", text.encode_utf16().map(spell).collect::<String>())
}

fn base64(bytes: &[u8], [plus, slash]: [u8; 2]) -> Vec<u8> {
    let digit = |value: u8| match value {
        0..26 => b'A' + value,
        26..52 => b'a' + value - 26,
        52..62 => b'0' + value - 52,
        62 => plus,
        _ => slash,
    };
    // What is not a whole group depends on what follows.
    let groups = bytes.chunks_exact(3).flat_map(|three| {
        let [a, b, c] = [three[0], three[1], three[2]];
        [a >> 2, (a & 3) << 4 | b >> 4, (b & 15) << 2 | c >> 6, c & 63]
    });
    groups.map(digit).collect()
}

#[test]
fn every_spelling_is_found() {
    let needles = Needles::all();
    let found = |text: &str| needles.search.is_match(text);
    assert!(!found("nothing at all, and prompt-nee"), "a short part is anybody's");
    for text in [
        format!("x{PROMPT}y"),
        format!("key={}", &CALLER[3..17]),
        PROMPT.to_uppercase(),
        format!("{:?}", format!("x{ANSWER}")),
        serde_json::to_string(&[TOOL]).expect("text"),
        r"\u00dcml\u00e4ut prompt-ne".to_owned(),
        "%C3%9Cml%C3%A4ut%20prompt-needle".to_owned(),
        // `printf 'a:csk-Acc0unt+key/needle="01"' | base64`
        "YTpjc2stQWNjMHVudCtrZXkvbmVlZGxlPSIwMSI=".to_owned(),
        "Basic Y3NrLUFjYzB1bnQra2V5L25lZWRsZT0iMDEi".to_owned(),
        format!("{:?}", QUERY.as_bytes()),
        "706174682d6e6565646c652d3130".to_owned(),
    ] {
        assert!(found(&text), "{text}");
    }
}
