//! Views from outside: each module is one of them.

mod mount;
mod support;
