//! Who may do what. Every request to the port for users and agents passes the [`Gate`] first, whatever its transport:
//! it finds out who asks, looks up in the [`table`] what the method takes, and hands the [`Caller`] on. Handlers decide
//! nothing about it, but for what hangs on the content of a request: an agent speaks for its own node alone.
//!
//! | file | owns |
//! |---|---|
//! | `table` | what each method takes: one line per method |
//! | `gate` | the check of every request |
//! | `caller` | who asks |
//! | `denied` | why somebody is turned away, and what he can do about it |
//! | `hold` | streams end with the token that they were begun with |
//! | `slowdown` | answers to those who guess, late and ever later |
//! | `uses` | when tokens were used last, told to the cluster every minute |
//! | `first` | gives a new cluster its first token |
//! | `tokens`, `join` | makes, lists and revokes tokens; lets machines in and signs their certificates |
//! | `audit` | one line per change: who, what, how it ended |
//!
//! With `--insecure` nobody is asked anything. Called by `serve` and by the transports of `api`.

pub mod audit;
mod caller;
mod denied;
mod first;
mod gate;
mod hold;
mod join;
mod slowdown;
mod table;
mod tokens;
mod uses;

pub use caller::{Caller, Role, Who};
pub use denied::Denied;
pub use gate::{FORWARDED, Gate, SOURCE, admit};
pub use hold::{Hold, Holds};
pub use join::JoinError;
pub use table::{Rule, method_rule};
