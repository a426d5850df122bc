//! Scenes of simple shapes, composed by a seeded program.
