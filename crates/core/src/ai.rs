//! Rules of the AI ledger: amounts of money, prices, what a call may reserve and what it has cost, the credits of a
//! user; and how SDKs and agents in a workspace call providers.

pub mod account;
pub mod environment;
pub mod mode;
pub mod money;
pub mod own_key;
pub mod prices;
pub mod provider;
pub mod reservation;
