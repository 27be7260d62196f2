//! Every fault of the matrix, by the stage at which it happens.

mod body;
mod connect;
mod head;
mod http2;
mod status;

use super::table::Row;

/// The status line of an answer.
const OK: &str = "HTTP/1.1 200 OK";
/// A timeout that ends a stall soon, and that no answer meets that is on its way.
const NO_HEAD: &str = "upstream.head_timeout = \"3s\"";
const NO_BODY: &str = "upstream.idle_timeout = \"3s\"";
const NO_CONNECTION: &str = "upstream.connect_timeout = \"3s\"";

pub(super) fn all() -> Vec<Row> {
    [connect::rows(), head::rows(), body::rows(), status::rows(), http2::rows()].concat()
}
