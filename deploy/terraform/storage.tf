# Disks, which one node has at a time, for the class `streamlab`; files, which all nodes have at once, for `streamlab-shared`. The classes
# themselves are Kubernetes' objects: deploy/terraform/classes.yaml.tftpl, written by the output `storage_classes`.
locals {
  storage = {
    disks = {
      addon   = "aws-ebs-csi-driver"
      account = "ebs-csi-controller-sa"
      policy  = "AmazonEBSCSIDriverPolicy"
    }
    files = {
      addon   = "aws-efs-csi-driver"
      account = "efs-csi-controller-sa"
      policy  = "AmazonEFSCSIDriverPolicy"
    }
  }
}

resource "aws_eks_addon" "storage" {
  for_each     = local.storage
  cluster_name = aws_eks_cluster.lab.name
  addon_name   = each.value.addon

  pod_identity_association {
    role_arn        = aws_iam_role.storage[each.key].arn
    service_account = each.value.account
  }

  depends_on = [aws_eks_node_group.lab, aws_eks_addon.plain]
}

resource "aws_efs_file_system" "shared" {
  encrypted       = true
  kms_key_id      = aws_kms_key.lab.arn
  throughput_mode = "elastic"
  tags            = { Name = "${var.cluster_name}-shared" }
}

resource "aws_efs_mount_target" "shared" {
  for_each        = aws_subnet.private
  file_system_id  = aws_efs_file_system.shared.id
  subnet_id       = each.value.id
  security_groups = [aws_security_group.shared.id]
}

resource "aws_security_group" "shared" {
  name        = "${var.cluster_name}-shared"
  description = "The shared files, for the cluster's nodes"
  vpc_id      = aws_vpc.lab.id
}

resource "aws_vpc_security_group_ingress_rule" "shared" {
  security_group_id            = aws_security_group.shared.id
  description                  = "NFS from the nodes"
  referenced_security_group_id = aws_eks_cluster.lab.vpc_config[0].cluster_security_group_id
  ip_protocol                  = "tcp"
  from_port                    = 2049
  to_port                      = 2049
}
