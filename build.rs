//! Makes the tables by which prompts are counted: the merges of the `o200k` vocabulary, packed so
//! that they are searched where they lie in the program. Read as the crate that publishes them
//! does, they take 84 MB of memory; these are four, of which only what is touched is loaded.

use std::collections::HashMap;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::{env, fs};

#[path = "src/usage/tokenizer/table.rs"]
#[expect(dead_code, reason = "what searches the tables is the program's part")]
mod table;

type Tokens<'a> = HashMap<&'a [u8], u32>;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=src/usage/tokenizer/table.rs");
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?);
    let vocabulary = &bpe_openai::o200k_base().bpe;
    let count = u32::try_from(vocabulary.num_tokens())?;
    let texts: Vec<&[u8]> = (0..count).map(|token| vocabulary.token_bytes(token)).collect();
    if count >> table::TOKEN_BITS > 0 {
        return Err("the vocabulary is too large for the tables".into());
    }
    let tokens: Tokens<'_> = texts.iter().copied().zip(0..).collect();

    let mut bytes = Vec::with_capacity(256 * 4);
    for byte in 0..=u8::MAX {
        let token = tokens.get([byte].as_slice()).ok_or("a byte that is no token")?;
        bytes.extend_from_slice(&token.to_le_bytes());
    }
    fs::write(out.join("o200k.bytes"), bytes)?;

    let mut merges = Vec::with_capacity(texts.len());
    for (token, text) in (0..).zip(&texts) {
        // A byte is made of nothing. What no merge leads to is a token only as a whole piece.
        if let [left, right] = parts(text, token, &tokens).as_slice() {
            let pair = table::pair(*left, *right);
            merges.push((pair, pair << table::TOKEN_BITS | u64::from(token)));
        }
    }
    write(&out.join("o200k.merges"), &merges)?;

    let whole = texts.iter().map(|text| table::fingerprint(text));
    write(&out.join("o200k.whole"), &whole.map(|it| (it, it)).collect::<Vec<_>>())
}

/// The tokens that `text` is made of when only those before `token` are known: merged in their
/// order, by the definition of byte-pair encoding.
fn parts(text: &[u8], token: u32, tokens: &Tokens<'_>) -> Vec<u32> {
    let known = |bytes: &[u8]| tokens.get(bytes).copied().filter(|it| *it < token);
    let mut ends: Vec<usize> = (0..=text.len()).collect();
    while let Some((_, at)) = ends
        .windows(3)
        .enumerate()
        .filter_map(|(at, three)| Some((known(&text[three[0]..three[2]])?, at)))
        .min()
    {
        ends.remove(at + 1);
    }
    ends.windows(2).filter_map(|two| known(&text[two[0]..two[1]])).collect()
}

/// Writes a table of entries, each of them at home or in the first free slot after it.
fn write(path: &Path, entries: &[(u64, u64)]) -> Result<(), Box<dyn Error>> {
    // At most three quarters and a bit are full, so that a search ends after two slots or three.
    let mut slots = vec![table::EMPTY; (entries.len() * 5 / 4).next_power_of_two()];
    let mask = slots.len() - 1;
    for (key, entry) in entries {
        let mut at = table::home(*key, slots.len());
        while slots[at] != table::EMPTY {
            at = (at + 1) & mask;
        }
        slots[at] = *entry;
    }
    Ok(fs::write(path, slots.iter().flat_map(|slot| slot.to_le_bytes()).collect::<Vec<_>>())?)
}
