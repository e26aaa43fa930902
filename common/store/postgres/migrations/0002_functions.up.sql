-- Writes that must look at what is there before they decide. The rule everywhere: the higher (version, updated_at,
-- node) wins. strict: an equal version loses, too (the caller's If-Match is decided here).
-- outcome: 0 nothing to do, 1 stored, 2 lost, 3 this very write is there already; count_r, bytes_r: what the namespace gains.

CREATE FUNCTION memory_put(p memories, strict boolean, OUT outcome smallint, OUT count_r bigint, OUT bytes_r bigint)
LANGUAGE plpgsql AS $$
DECLARE
	old memories;
	grave memory_trash;
BEGIN
	count_r := 0;
	bytes_r := 0;
	SELECT * INTO grave FROM memory_trash t WHERE t.id = p.id FOR UPDATE;
	IF grave.id IS NOT NULL AND (CASE WHEN strict THEN grave.version >= p.version
			ELSE (grave.version, grave.updated_at, grave.node) >= (p.version, p.updated_at, p.node) END) THEN
		outcome := 2;
		IF grave.how = 0 THEN
			INSERT INTO memory_history VALUES (p.id, p.version, p.node, p.namespace, p.updated_at, true, p.body)
			ON CONFLICT DO NOTHING;
		ELSIF grave.how = 2 THEN -- versions between, which this batch has noted
			DELETE FROM memory_history h WHERE h.id = p.id;
		END IF;
		RETURN;
	END IF;
	LOOP
		SELECT * INTO old FROM memories m WHERE m.id = p.id FOR UPDATE;
		IF old.id IS NOT NULL THEN
			EXIT;
		END IF;
		INSERT INTO memories SELECT p.* ON CONFLICT DO NOTHING;
		IF FOUND THEN
			IF grave.id IS NOT NULL THEN
				IF grave.how = 0 THEN
					INSERT INTO memory_history VALUES (grave.id, grave.version, grave.node, grave.namespace,
						grave.updated_at, false, grave.body, grave.deleted_at)
					ON CONFLICT DO NOTHING;
				END IF;
				DELETE FROM memory_trash t WHERE t.id = p.id;
			END IF;
			outcome := 1;
			count_r := 1;
			bytes_r := p.bytes;
			RETURN;
		END IF;
	END LOOP;
	IF (old.version, old.updated_at, old.node) = (p.version, p.updated_at, p.node) THEN
		outcome := 3;
	ELSIF (CASE WHEN strict THEN old.version < p.version
			ELSE (old.version, old.updated_at, old.node) < (p.version, p.updated_at, p.node) END) THEN
		INSERT INTO memory_history VALUES
			(old.id, old.version, old.node, old.namespace, old.updated_at, old.version = p.version, old.body)
		ON CONFLICT DO NOTHING;
		DELETE FROM memory_trash t WHERE t.id = p.id;
		UPDATE memories SET (version, node, content, metadata, kind, user_id, agent_id, session_id, external_id,
			importance, flags, created_at, updated_at, expires_at, content_key, bytes, embedding_model, dim,
			embedding, words, body) =
			(p.version, p.node, p.content, p.metadata, p.kind, p.user_id, p.agent_id, p.session_id, p.external_id,
			p.importance, p.flags, p.created_at, p.updated_at, p.expires_at, p.content_key, p.bytes,
			p.embedding_model, p.dim, p.embedding, p.words, p.body)
		WHERE id = p.id AND namespace = old.namespace;
		outcome := 1;
		bytes_r := p.bytes - old.bytes;
	ELSE
		outcome := 2;
		IF NOT strict THEN
			INSERT INTO memory_history VALUES (p.id, p.version, p.node, p.namespace, p.updated_at, true, p.body)
			ON CONFLICT DO NOTHING;
		END IF;
	END IF;
END $$;

-- how_p as in memory_trash.how.
CREATE FUNCTION memory_delete(id_p uuid, namespace_p text, version_p bigint, node_p bigint, at_p timestamptz,
	how_p smallint, strict boolean, OUT outcome smallint, OUT count_r bigint, OUT bytes_r bigint)
LANGUAGE plpgsql AS $$
DECLARE
	old memories;
	grave memory_trash;
BEGIN
	outcome := 0;
	count_r := 0;
	bytes_r := 0;
	SELECT * INTO grave FROM memory_trash t WHERE t.id = id_p FOR UPDATE;
	SELECT * INTO old FROM memories m WHERE m.id = id_p FOR UPDATE;
	IF grave.node = node_p AND (grave.version, grave.updated_at) = (version_p, at_p)
			OR how_p = 2 AND grave.how = 2 AND grave.node = node_p AND grave.version >= version_p AND old.id IS NULL THEN
		outcome := 3;
		RETURN;
	END IF;
	-- What is to be erased is erased, whatever others have made of it meanwhile; what they write next must be newer.
	IF how_p = 2 AND NOT strict THEN
		version_p := greatest(version_p, old.version, grave.version);
		at_p := greatest(at_p, old.updated_at, grave.updated_at);
		node_p := greatest(node_p, old.node, grave.node);
	ELSIF grave.id IS NOT NULL AND (grave.version, grave.updated_at, grave.node) >= (version_p, at_p, node_p) THEN
		RETURN;
	END IF;
	IF old.id IS NOT NULL AND (how_p <> 2 OR strict) AND (CASE WHEN strict THEN old.version >= version_p
			ELSE (old.version, old.updated_at, old.node) >= (version_p, at_p, node_p) END) THEN
		outcome := 2;
		RETURN;
	END IF;
	outcome := 1;
	IF old.id IS NOT NULL THEN
		count_r := -1;
		bytes_r := -old.bytes;
		DELETE FROM memories m WHERE m.id = id_p AND m.namespace = old.namespace;
	END IF;
	IF how_p = 0 AND old.id IS NOT NULL THEN
		INSERT INTO memory_history VALUES (old.id, old.version, old.node, old.namespace, old.updated_at, false, old.body)
		ON CONFLICT DO NOTHING;
		INSERT INTO memory_trash VALUES (id_p, old.namespace, version_p, node_p, at_p, 0, old.content, old.metadata,
			old.kind, old.user_id, old.agent_id, old.session_id, old.external_id, old.importance, old.flags,
			old.created_at, at_p, old.expires_at, old.content_key, old.bytes, old.embedding_model, old.dim,
			old.embedding, old.body)
		ON CONFLICT (id) DO UPDATE SET version = excluded.version, node = excluded.node,
			deleted_at = excluded.deleted_at, how = 0, content = excluded.content, metadata = excluded.metadata,
			flags = excluded.flags, updated_at = excluded.updated_at, expires_at = excluded.expires_at,
			embedding = excluded.embedding, dim = excluded.dim, body = excluded.body;
		RETURN;
	END IF;
	DELETE FROM memory_history h WHERE h.id = id_p;
	DELETE FROM memory_trash t WHERE t.id = id_p;
	INSERT INTO memory_trash (id, namespace, version, node, deleted_at, how, updated_at)
	VALUES (id_p, namespace_p, version_p, node_p, at_p, greatest(how_p, 1::smallint), at_p);
	IF how_p = 2 THEN -- answers kept for idempotency repeat the content
		DELETE FROM memory_idempotency i WHERE i.namespace = namespace_p;
	END IF;
END $$;

CREATE FUNCTION memory_namespace_put(name_p text, at_p timestamptz, quota_bytes_p bigint, quota_count_p bigint,
	relaxed_p boolean, settings_p json) RETURNS void
LANGUAGE sql AS $$
	INSERT INTO memory_namespaces (name, created_at, changed_at, quota_bytes, quota_count, relaxed, settings)
	VALUES (name_p, at_p, at_p, quota_bytes_p, quota_count_p, relaxed_p, settings_p)
	ON CONFLICT (name) DO UPDATE SET
		created_at = CASE WHEN memory_namespaces.present THEN memory_namespaces.created_at ELSE at_p END,
		present = true, quota_bytes = quota_bytes_p, quota_count = quota_count_p, relaxed = relaxed_p,
		settings = settings_p, changed_at = at_p;
$$;

CREATE FUNCTION memory_namespace_drop(name_p text, at_p timestamptz) RETURNS void
LANGUAGE sql AS $$
	DELETE FROM memories WHERE namespace = name_p;
	DELETE FROM memory_trash WHERE namespace = name_p;
	DELETE FROM memory_history WHERE namespace = name_p;
	DELETE FROM memory_idempotency WHERE namespace = name_p;
	UPDATE memory_namespaces SET present = false, count = 0, bytes = 0, quota_bytes = 0, quota_count = 0,
		relaxed = false, embedder = '', dim = 0, settings = '{}', changed_at = at_p
	WHERE name = name_p;
$$;

-- The end of a batch: counters, the node's cursor, and the revision, in the order in which batches commit. Who holds
-- the lock holds it until its transaction is over; nothing that waits for another daemon's rows may follow.
CREATE FUNCTION memory_publish(node_p bigint, cursor_p bigint, scrub_p bigint, namespaces_p text[], embedders_p text[],
	dims_p integer[], counts_p bigint[], bytes_p bigint[], ids_p uuid[], versions_p bigint[], kinds_p smallint[],
	places_p smallint[]) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
	r bigint;
	now_p timestamptz := clock_timestamp();
BEGIN
	UPDATE memory_nodes SET cursor = cursor_p, scrub = coalesce(scrub_p, scrub), seen_at = now_p WHERE node = node_p;
	IF cardinality(namespaces_p) = 0 THEN
		RETURN 0;
	END IF;
	PERFORM pg_advisory_xact_lock(7700, 1);
	INSERT INTO memory_namespaces (name, created_at, changed_at, embedder, dim, count, bytes)
	SELECT n, now_p, now_p, e, d, c, b FROM unnest(namespaces_p, embedders_p, dims_p, counts_p, bytes_p) AS x(n, e, d, c, b)
	ON CONFLICT (name) DO UPDATE SET
		count = memory_namespaces.count + excluded.count, bytes = memory_namespaces.bytes + excluded.bytes,
		embedder = CASE WHEN memory_namespaces.dim = 0 THEN excluded.embedder ELSE memory_namespaces.embedder END,
		dim = CASE WHEN memory_namespaces.dim = 0 THEN excluded.dim ELSE memory_namespaces.dim END,
		present = memory_namespaces.present OR excluded.count > 0;
	r := nextval('memory_revision');
	INSERT INTO memory_changes VALUES
		(r, node_p, now_p, namespaces_p, counts_p, bytes_p, ids_p, versions_p, kinds_p, places_p);
	PERFORM pg_notify('orchestra', r::text);
	RETURN r;
END $$;

-- Forgets what every daemon that comes back sooner has read. Only one at a time does it; the others have nothing to do.
CREATE FUNCTION memory_prune(keep interval) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
	last bigint;
BEGIN
	IF NOT pg_try_advisory_xact_lock(7700, 4) THEN
		RETURN;
	END IF;
	SELECT max(revision) INTO last FROM memory_changes WHERE at < clock_timestamp() - keep;
	IF last IS NOT NULL THEN
		UPDATE memory_feed SET pruned = last;
		DELETE FROM memory_changes WHERE revision <= last;
	END IF;
END $$;
