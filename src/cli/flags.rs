//! Flags that win over the environment and the file.

use crate::config::Overrides;

/// What `serve` can be told without a file.
#[derive(clap::Args, Debug)]
pub(super) struct Flags {
    /// Address of the API [default: 127.0.0.1:8080].
    #[arg(long, value_name = "ADDR")]
    listen: Option<String>,
    /// Address of metrics, health and status [default: 127.0.0.1:9464].
    #[arg(long, value_name = "ADDR")]
    admin: Option<String>,
    /// Base URL of the upstream [default: `https://api.cerebras.ai`].
    #[arg(long, value_name = "URL")]
    upstream: Option<String>,
    /// Directory for what is to outlive the process: quota used, usage
    /// [default: `$XDG_STATE_HOME/tidegate` or `~/.local/state/tidegate`].
    #[arg(long, value_name = "DIR", conflicts_with = "stateless")]
    state_dir: Option<String>,
    /// Keep nothing: every start begins with quotas as if they were unused.
    #[arg(long)]
    stateless: bool,
}

impl Flags {
    /// What they set.
    pub(super) fn overrides(&self) -> Overrides {
        let Self { listen, admin, upstream, state_dir, stateless } = self;
        Overrides {
            listen: listen.clone(),
            admin: admin.clone(),
            upstream: upstream.clone(),
            state_dir: state_dir.clone(),
            stateless: *stateless,
            ..Overrides::default()
        }
    }
}
