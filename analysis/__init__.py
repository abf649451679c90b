"""Run records to scores, statistics, tables and figures: reads and writes files only, never a model."""
