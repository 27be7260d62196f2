//! Simulations in virtual time: the ledger against models of the upstream written apart from it.
//!
//! Everything random follows from one seed (`SIM_SEED`), which every test prints.

mod best;
mod bound;
mod differential;
mod fair;
mod forecast;
mod law;
mod line;
mod observed;
mod oracle;
mod overload;
mod passing;
mod run;
mod seed;
mod workload;
mod world;
