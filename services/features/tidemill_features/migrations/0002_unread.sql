-- Versions of views that no pipeline's file names, kept or current, and since when: their state goes after a while.
-- One that is gone stays here until its topics are gone, too.
CREATE TABLE unread (
    view text NOT NULL,
    version text NOT NULL,
    since timestamptz NOT NULL DEFAULT now(),
    is_gone boolean NOT NULL DEFAULT false,
    PRIMARY KEY (view, version)
);
