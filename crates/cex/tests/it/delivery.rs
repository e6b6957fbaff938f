//! Commands on their way to devices and back.

mod bed;
mod cip;
mod polls;
mod pushes;
mod removals;
mod results;
