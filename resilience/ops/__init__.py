"""Operations: what people run from a terminal."""
