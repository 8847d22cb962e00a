# OLD and NEW: source trees of 6b6538d and 6430066 (streambp and quickstart: its parent ccaff9a), each after `cargo build --release --locked`.
OLD=... NEW=... SCRATCH=... python3 ab.py decode:9,streambp:7,quickstart:7
