-- Shadows against the answers on the rows that both have, by the day of the label: exact sums as in `metrics`.
CREATE TABLE monitoring.rivals (
    pipeline text NOT NULL,
    name text NOT NULL,
    against integer NOT NULL,
    pane_us bigint NOT NULL,
    model text NOT NULL,
    n bigint NOT NULL,
    positives bigint NOT NULL,
    failed bigint NOT NULL,
    score numeric NOT NULL,
    log_loss numeric NOT NULL,
    squared_error numeric NOT NULL,
    answers_score numeric NOT NULL,
    answers_log_loss numeric NOT NULL,
    answers_squared_error numeric NOT NULL,
    PRIMARY KEY (pipeline, name, against, pane_us)
);
