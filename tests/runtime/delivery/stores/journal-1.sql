-- What version 1 of the journal's schema leaves behind when its process is killed.
BEGIN TRANSACTION;
CREATE TABLE journal_entries (
            seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, route TEXT NOT NULL, name TEXT NOT NULL,
            version BIGINT NOT NULL, payload TEXT NOT NULL, headers TEXT NOT NULL, key TEXT,
            due_ns BIGINT NOT NULL, note TEXT, created_ns BIGINT NOT NULL, state TEXT NOT NULL,
            owner TEXT, attempt BIGINT NOT NULL, losses BIGINT NOT NULL, wait_ns BIGINT NOT NULL,
            result TEXT, error TEXT, finished_ns BIGINT, wake_ns BIGINT
        );
INSERT INTO "journal_entries" VALUES(1,'Ship:done','command Ship','Ship',1,'{"item":"done"}','{"time":[1795251866037222398,748042786473016584]}',NULL,0,NULL,1795251866037294382,'done',NULL,1,0,0,'"done"',NULL,1795251866040488245,NULL);
INSERT INTO "journal_entries" VALUES(2,'4c7c44df3f336782defd906f7cc0adc6','event tell','Shipped',1,'{"item":"done"}','{"time":[1795251866040152539,748042786473016586],"cause":[1795251866037222398,748042786473016584],"origin":[1795251866037222398,748042786473016584]}',NULL,0,NULL,1795251866040287821,'done',NULL,1,0,0,NULL,NULL,1795251866044701040,NULL);
INSERT INTO "journal_entries" VALUES(3,'Ship:broken','command Ship','Ship',1,'{"item":"broken"}','{"time":[1795251866045635044,748042786473016588]}',NULL,0,NULL,1795251866045670561,'dead',NULL,1,0,0,NULL,'{"type": "ValueError", "module": "builtins", "message": "it is broken", "arguments": ["it is broken"], "attributes": {}, "kind": "raised"}',1795251866052037468,-1);
INSERT INTO "journal_entries" VALUES(4,'Refund:asked','command Refund','Refund',1,'{"item":"asked"}','{"time":[1795251866051358730,748042786473016589]}',NULL,0,'{"approvals": [{"asked_ns": 1795251866055308615, "expires_ns": null, "by": "alice", "otherwise": "reject"}]}',1795251866051399667,'waiting',NULL,1,0,0,NULL,NULL,NULL,-1);
INSERT INTO "journal_entries" VALUES(5,'Ship:later','command Ship','Ship',1,'{"item":"later"}','{"time":[1795251866072144187,748042786473016595]}',NULL,2082585600000000000,NULL,1795251866072193659,'ready',NULL,0,0,0,NULL,NULL,NULL,2082585600000000000);
INSERT INTO "journal_entries" VALUES(6,'Ship:often','schedule','Ship',1,'{"item":"often"}','{"time":[1795251866074780017,748042786473016596]}',NULL,1795338266074831624,'{"route": "command Ship", "note": null, "key": null, "every_ns": 86400000000000, "from_ns": 1795251866074831624}',1795251866074818690,'ready',NULL,0,0,0,NULL,NULL,NULL,1795338266074831624);
INSERT INTO "journal_entries" VALUES(7,'Ship:waiting','command Ship','Ship',1,'{"item":"waiting"}','{"time":[1795251866077188544,748042786473016597],"key":"k"}','k',0,NULL,1795251866077218620,'running','da370315af024d3193d80c9893b0ca84',1,0,0,NULL,NULL,NULL,NULL);
INSERT INTO "journal_entries" VALUES(8,'Ship:behind','command Ship','Ship',1,'{"item":"behind"}','{"time":[1795251866081206716,748042786473016598],"key":"k"}','k',0,NULL,1795251866081239828,'running','da370315af024d3193d80c9893b0ca84',1,0,0,NULL,NULL,NULL,NULL);
CREATE TABLE journal_events (
            seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, name TEXT NOT NULL,
            version BIGINT NOT NULL, payload TEXT NOT NULL, headers TEXT NOT NULL,
            session_id TEXT, time_ns BIGINT NOT NULL
        );
INSERT INTO "journal_events" VALUES(1,'01a1fd59-89b8-7000-8a61-94f374847d0a','Shipped',1,'{"item":"done"}','{"time":[1795251866040152539,748042786473016586],"cause":[1795251866037222398,748042786473016584],"origin":[1795251866037222398,748042786473016584]}',NULL,1795251866040152539);
INSERT INTO "journal_events" VALUES(2,'01a1fd59-89c3-7000-8a61-94f374847d0f','CommandErrorEvent',1,'{"command":"Ship","command_id":"01a1fd59-89bd-7000-8a61-94f374847d0c","error_type":"ValueError","error":"it is broken"}','{"time":[1795251866051976634,748042786473016591],"cause":[1795251866045635044,748042786473016588],"origin":[1795251866045635044,748042786473016588],"of_failure":true}',NULL,1795251866051976634);
INSERT INTO "journal_events" VALUES(3,'01a1fd59-89c6-7000-8a61-94f374847d10','DeadLetterEvent',1,'{"letter_id":"Ship:broken","message":"Ship","message_id":"01a1fd59-89bd-7000-8a61-94f374847d0c","handler":"command Ship","error_type":"ValueError","error":"it is broken"}','{"time":[1795251866054306344,748042786473016592],"cause":[1795251866045635044,748042786473016588],"origin":[1795251866045635044,748042786473016588],"of_failure":true}',NULL,1795251866054306344);
INSERT INTO "journal_events" VALUES(4,'01a1fd59-89d1-7000-8a61-94f374847d12','ApprovalRequestedEvent',1,'{"approval_id":"Refund:asked#0","command":"Refund","command_id":"01a1fd59-89c3-7000-8a61-94f374847d0d","by":"alice","expires_at":null}','{"time":[1795251866065327219,748042786473016594],"cause":[1795251866051358730,748042786473016589],"origin":[1795251866051358730,748042786473016589]}',NULL,1795251866065327219);
CREATE TABLE journal_meta (name TEXT PRIMARY KEY, value TEXT NOT NULL);
INSERT INTO "journal_meta" VALUES('version','1');
INSERT INTO "journal_meta" VALUES('node','5312499ab9334aef915ae37935d5e483');
CREATE TABLE journal_workers (
            id TEXT PRIMARY KEY, name TEXT NOT NULL, routes TEXT NOT NULL, beats BIGINT NOT NULL,
            started_ns BIGINT NOT NULL
        );
INSERT INTO "journal_workers" VALUES('da370315af024d3193d80c9893b0ca84','host:1','["schedule", "publish", "command Ship", "command Refund", "event tell"]',1,1795251865990295686);
CREATE INDEX journal_entries_to_wake ON journal_entries (wake_ns, route, seq)
            WHERE wake_ns IS NOT NULL
        ;
CREATE INDEX journal_entries_running ON journal_entries (route, key, owner)
            WHERE owner IS NOT NULL
        ;
CREATE INDEX journal_entries_of_key ON journal_entries (route, key, seq)
            WHERE key IS NOT NULL AND finished_ns IS NULL
        ;
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('journal_events',4);
COMMIT;
