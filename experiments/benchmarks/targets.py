"""What is aimed at, by benchmark and figure; a figure that several parts give has the same target in each.

`bench.py` holds its table against these, and docs/benchmarks.md says where they are missed and why.
"""

TARGETS: dict[str, dict[str, str]] = {
    "teacher_throughput": {
        "steady_vs_raw_one_core": ">= 0.95",
        "steady_vs_raw_one_engine": ">= 0.95",
        "job_vs_ray_data_llm": "<= 0.6",
        "vs_transformers": ">= 1",
        "prefill_computed_share": "<= 0.5",
        "prefix_speedup": ">= 1.5",
        "prefix_speedup_long": ">= 1.5",
        "seq2seq_vs_fixed": ">= 2",
        "seq2seq_vs_fixed_long": ">= 2",
        "seq2seq_vs_fixed_forced": ">= 2",
        "seq2seq_vs_fixed_spread": ">= 2",
        "seq2seq_vs_fixed_many": ">= 2",
    },
    "student_step": {
        "step_vs_plain": ">= 1.7",
        "step_vs_inputs_padded_to_the_batch": ">= 1.6",
        "loss_relative_difference": "<= 1e-5",
        "real_token_share": ">= 0.95",
        "two_rank_speedup": ">= 1.8",
        "wrapper_overhead": "<= 0.05",
        "feature_rows_per_minute": ">= 50000",
        "features_peak_gib": "<= 2",
    },
    "ranks": {
        "different_digests": "<= 0",
        "scoring_speedup_of_two_ranks": ">= 1.8",
    },
    "search_cost": {
        "trial_overhead_s": "<= 1",
        "asha_step_share": "<= 0.4",
        "winner_gap_points": "<= 1",
        "teacher_rows_generated": "<= 0",
    },
    "scale": {
        "driver_peak_gib": "<= 1.5",
        "resume_s": "<= 60",
    },
    "serve": {
        "throughput_vs_plain": ">= 3",
        "lost": "<= 0",
        "other_answers": "<= 0",
    },
}
