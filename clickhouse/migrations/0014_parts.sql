-- The whole key of each part is kept in memory. By default ClickHouse leaves out the columns behind one that has another value
-- in nine of ten marks, as the project has in most sums: then a project's sums of all kinds and times were read for those
-- of few (clickhouse/README.md has figures). Parts whose key is in memory already get it with the next start.
--
-- A month that is over becomes one part a day later: there is less to plan, and what belongs together lies together. The month
-- that goes on is left alone, since some of its parts are always younger.
ALTER TABLE facts
    MODIFY SETTING
        primary_key_ratio_of_unique_prefix_values_to_skip_suffix_columns = 0,
        min_age_to_force_merge_seconds = 86400,
        min_age_to_force_merge_on_partition_only = 1;
