output "vpc_id" {
  description = "The private network."
  value       = aws_vpc.lab.id
}

output "cluster_name" {
  description = "The cluster: aws eks update-kubeconfig --name NAME"
  value       = aws_eks_cluster.lab.name
}

output "cluster_endpoint" {
  description = "Where its API answers."
  value       = aws_eks_cluster.lab.endpoint
}

output "registries" {
  description = "Where each image that is built here goes."
  value       = { for name, repository in aws_ecr_repository.own : name => repository.repository_url }
}

output "storage_classes" {
  description = "Kubernetes' objects for the overlay prod: tofu output -raw storage_classes | kubectl apply -f -"
  value = templatefile("${path.module}/classes.yaml.tftpl", {
    key   = aws_kms_key.lab.arn
    files = aws_efs_file_system.shared.id
  })
}
