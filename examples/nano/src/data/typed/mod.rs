//! Conversations in text, and how lines are written.

pub mod corpus;
pub mod line;
pub mod talks;
pub mod text;
pub mod thinking;
pub mod tools;
