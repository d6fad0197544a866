//! The rules of FEED.md, one by one: a test for each that fails without it.
//!
//! The feeds are in memory and the clock and the dice are the tests' own; where a store has to misbehave,
//! `scripted` does so on cue. Random faults are the business of the simulation.

mod files;
mod follow;
mod keep;
mod publish;
mod scripted;
mod support;
mod trust;
