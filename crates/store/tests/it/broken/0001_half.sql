CREATE TABLE half (id bigint);
SELECT 1/0;
