//! What holds whatever fails, whoever comes in between, and wherever the files go.

mod crashes;
mod disk;
mod fallback;
mod old;
mod scene;
mod situations;
