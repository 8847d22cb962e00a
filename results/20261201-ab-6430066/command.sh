# OLD and NEW: source trees of 6b6538d and 6430066 (for streambp and quickstart its parent ccaff9a), each after
# `cargo build --release --locked`, whose seconds are the last row.
python3 scripts/compare_programs.py OLD NEW quickstart:7 streambp:7
python3 scripts/compare_programs.py OLD NEW decode:9
