//! Rules of the AI ledger: amounts of money, prices, what a call may reserve and what it has cost, and the credits of a user.

pub mod account;
pub mod mode;
pub mod money;
pub mod prices;
pub mod provider;
pub mod reservation;
