//! Asks a gateway's admin port for its status.

use crate::admin::{Address, BadUrl, Client, Unreachable};

use super::Snapshot;

/// Where the gateway is asked.
#[derive(Clone, Debug)]
pub struct Feed {
    client: Client,
    address: Address,
    shown: String,
}

impl Feed {
    /// One that asks the admin port at `url`.
    ///
    /// # Errors
    ///
    /// If it is no such address.
    pub fn new(url: &str, client: Client) -> Result<Self, BadUrl> {
        let address = Address::parse(url)?;
        let shown = address.to_string();
        Ok(Self { client, address, shown })
    }

    /// The address, for people.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.shown
    }

    /// What the gateway says of itself now.
    ///
    /// # Errors
    ///
    /// If it does not answer, or something else does.
    pub async fn ask(&self) -> Result<Snapshot, Unreachable> {
        let text = self.client.page(&self.address, "/status").await?;
        serde_json::from_slice(&text).map_err(|error| {
            let status = format!("something else at column {}", error.column());
            Unreachable::Other { url: self.shown.clone(), status }
        })
    }
}
