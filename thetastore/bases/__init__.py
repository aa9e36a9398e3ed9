"""Which object to take a difference against: found by place, name, shape or numbers; chosen for whole families."""
