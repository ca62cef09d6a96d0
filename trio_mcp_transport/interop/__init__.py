"""Other people's worlds on our channels: each module needs the extra that its name tells."""
