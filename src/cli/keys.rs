//! `tidegate keys`: makes, lists, replaces and revokes callers' keys, in a file that the gateway reads.
//!
//! # Invariants
//!
//! - A key is shown once, when it is made; the file has its digest only.
//! - The file is there whole, or as it was before; two writers wait for each other.
//! - Nothing is written that the gateway would not read. What people have written stays as it is.

mod entry;
mod file;
mod list;
mod secret;

use std::collections::BTreeSet;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Subcommand;

use self::entry::{Entry, LimitText};
use self::file::KeysFile;
use super::{complain, failed, misused, say};
use crate::config::KeysContext;
use crate::time::{self, Timestamp};

#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// The file of keys [default: `identity.keys_file` of the configuration].
    #[arg(long, value_name = "FILE", global = true)]
    file: Option<PathBuf>,
    /// The gateway's configuration, which names the file, the classes, and keys of its own.
    #[arg(long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a key for a new tenant; it is printed once, and never again.
    Add(Add),
    /// List the tenants: what they may use, and until when.
    List(List),
    /// Make a tenant's keys good for nothing; its name stays taken.
    Revoke {
        /// The tenant's name.
        name: String,
    },
    /// Make a tenant a new key; the one before is good for a while yet.
    Rotate(Rotate),
    /// Take a tenant out of the file.
    Remove {
        /// The tenant's name.
        name: String,
    },
}

#[derive(clap::Args, Debug)]
struct Add {
    /// The tenant's name: 1 to 64 letters, digits, '-', '_' and '.'.
    name: String,
    /// The class of its requests that name none.
    #[arg(long)]
    class: Option<String>,
    /// Its share relative to other tenants [default: 1].
    #[arg(long)]
    weight: Option<NonZeroU32>,
    /// What it may use, all models together, such as "1000 requests/1m" or "1M tokens/1d:fixed" (a
    /// budget that begins anew at midnight UTC); may be given several times.
    #[arg(long = "limit", value_name = "LIMIT")]
    limits: Vec<LimitText>,
    /// A model that it may use, or "NAME*" for all that begin so; may be given several times.
    #[arg(long = "model", value_name = "MODEL")]
    models: Vec<String>,
    /// Its requests on their way at once.
    #[arg(long, value_name = "N")]
    max_concurrent: Option<NonZeroU32>,
    /// When its key is good no longer: "2027-01-01T00:00:00Z", or "90d" from now.
    #[arg(long, value_name = "WHEN", value_parser = when)]
    expires: Option<Timestamp>,
    /// What the key begins with.
    #[arg(long, default_value = "tg-")]
    prefix: String,
}

#[derive(clap::Args, Debug)]
struct List {
    /// As JSON.
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args, Debug)]
struct Rotate {
    /// The tenant's name.
    name: String,
    /// For how long the key before stays good; "0s" for no longer.
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = humantime::parse_duration)]
    overlap: Duration,
    /// What the key begins with.
    #[arg(long, default_value = "tg-")]
    prefix: String,
}

/// Why a command was not carried out.
#[derive(Debug)]
enum Failure {
    /// It makes no sense, or what it is to work on does not.
    Usage(String),
    /// It was not possible.
    Failed(String),
}

pub(super) fn run(args: Args) -> ExitCode {
    match carry_out(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Usage(problem)) => misused(problem),
        Err(Failure::Failed(problem)) => failed(problem),
    }
}

fn carry_out(args: Args) -> Result<(), Failure> {
    let context = context(args.file, args.config.as_deref())?;
    match args.command {
        Command::Add(add) => add.carry_out(&context),
        Command::List(List { json }) => list::carry_out(&context, json, time::wall()),
        Command::Rotate(rotate) => rotate.carry_out(&context),
        Command::Revoke { name } => {
            let mut file = KeysFile::open(&context)?;
            file.revoke(&name)?;
            file.save()?;
            complain(format_args!("{name} is revoked"));
            Ok(())
        }
        Command::Remove { name } => {
            let mut file = KeysFile::open(&context)?;
            file.remove(&name)?;
            file.save()?;
            complain(format_args!("{name} is removed"));
            Ok(())
        }
    }
}

/// What is known of the configuration, with the file that was meant.
fn context(file: Option<PathBuf>, config: Option<&Path>) -> Result<KeysContext, Failure> {
    let mut context = match (&file, config) {
        // Whoever names the file need not have the configuration at hand.
        (Some(_), None) => KeysContext::default(),
        (_, config) => KeysContext::load(config, std::env::vars())
            .map_err(|problems| Failure::Usage(problems.to_string()))?,
    };
    context.file = file.or(context.file);
    if context.file.is_none() {
        let message = "which file? Name it with --file, or the configuration that has \
                       identity.keys_file with --config";
        return Err(Failure::Usage(message.to_owned()));
    }
    Ok(context)
}

impl Add {
    fn carry_out(self, context: &KeysContext) -> Result<(), Failure> {
        let Self { name, class, weight, limits, models, max_concurrent, expires, prefix } = self;
        let key = secret::make(&prefix)?;
        let mut file = KeysFile::open(context)?;
        let hash = secret::hash(&key);
        let entry = Entry { name, hash, class, weight, limits, models, max_concurrent, expires };
        if context.names.contains(&entry.name) {
            let message = format!("{} is a tenant of the configuration already", entry.name);
            return Err(Failure::Failed(message));
        }
        file.add(&entry)?;
        file.save()?;
        show(&key, &entry.name);
        Ok(())
    }
}

impl Rotate {
    fn carry_out(self, context: &KeysContext) -> Result<(), Failure> {
        let Self { name, overlap, prefix } = self;
        let key = secret::make(&prefix)?;
        let mut file = KeysFile::open(context)?;
        let now = time::wall();
        let until = (!overlap.is_zero()).then(|| now.after(overlap));
        file.rotate(&name, &secret::hash(&key), until, now)?;
        file.save()?;
        show(&key, &name);
        if until.is_some() {
            let overlap = humantime::format_duration(overlap);
            complain(format_args!("the key before is good for {overlap} yet"));
        }
        Ok(())
    }
}

/// The key alone on standard output, so that it can go where it belongs without being looked at.
fn show(key: &str, name: &str) {
    say(key);
    complain(format_args!("this is {name}'s key; it is not kept, and not shown again"));
}

/// An instant, or how far ahead it is.
fn when(text: &str) -> Result<Timestamp, String> {
    let ahead = || humantime::parse_duration(text).ok().map(|span| time::wall().after(span));
    Timestamp::parse_rfc3339(text).or_else(ahead).ok_or_else(|| {
        "an instant is expected, such as \"2027-01-01T00:00:00Z\", or a time from now, such as \
         \"90d\""
            .to_owned()
    })
}

/// Names, for whoever asked for one that there is not.
fn listed(names: &BTreeSet<String>) -> String {
    const MOST: usize = 20;
    let shown: Vec<_> = names.iter().take(MOST).map(String::as_str).collect();
    match names.len() {
        0 => "there are none".to_owned(),
        all if all > MOST => format!("there are {} and {} more", shown.join(", "), all - MOST),
        _ => format!("there are {}", shown.join(", ")),
    }
}
