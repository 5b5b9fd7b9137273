"""Teacher engines and the pipeline that fills the rationale stores."""
