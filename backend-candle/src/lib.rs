//! backend-candle.
