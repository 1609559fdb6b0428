"""The benchmark: arms, baselines and seeds, trained and ranked, with the statistics to tell a gain from luck."""
