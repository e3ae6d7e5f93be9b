//! easyfuse: a Docker volume plugin that gives containers any FUSE filesystem which the host can mount.
//!
//! The layers, each calling only those below it: [`cli`], [`daemon`], [`plugin`], [`volume`], [`mount`], [`sys`].

pub mod cli;
pub mod daemon;
pub mod mount;
pub mod plugin;
pub mod sys;
pub mod volume;
